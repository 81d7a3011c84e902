from .loader import SaliencyLoader as SaliencyLoader
from .report import Report as Report
from .report import make_report as make_report
