from typing import Final

LF_IS_CRLF: Final = 0
LF_NORMALIZE: Final = 1
LF_REJECT: Final = 2
LF_NOTE: Final = 4
