from .flops import count_flops as count_flops
from .options import VMoBAOptions as VMoBAOptions
from .wan import apply_vmoba as apply_vmoba
from .wan import attention_report as attention_report
from .wan import remove_vmoba as remove_vmoba
