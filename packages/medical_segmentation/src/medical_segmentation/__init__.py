"""Volumes to masks with guided attention, and similar images with dynamic subspace learners.

A notebook imports from the groups: ``medical_segmentation.organs`` and ``medical_segmentation.similar``.
"""
