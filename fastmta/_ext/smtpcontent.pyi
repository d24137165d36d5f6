from typing import Final

BARE_LF_ALLOWED: Final = 0
BARE_LF_NORMALIZE: Final = 1
BARE_LF_REJECT: Final = 2
BARE_LF_NOTE: Final = 4
