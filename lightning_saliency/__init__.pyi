from . import attribution as attribution
from . import callbacks as callbacks
from . import data as data
from . import evidence as evidence
from . import gradient_ascent as gradient_ascent
from . import history as history
from . import loggers as loggers
from . import metrics as metrics
from . import models as models
from . import visualization as visualization
from .attribution import METHODS as METHODS
from .attribution import Explanation as Explanation
from .attribution import explain as explain
from .callbacks import CAMCallback as CAMCallback
from .callbacks import GradCAMCallback as GradCAMCallback
from .callbacks import GradCAMPlusPlusCallback as GradCAMPlusPlusCallback
from .callbacks import GradientSaliencyCallback as GradientSaliencyCallback
from .callbacks import SaliencyCallback as SaliencyCallback
from .evidence import Forward as Forward
from .gradient_ascent import class_model_image as class_model_image
from .gradient_ascent import fooling_image as fooling_image
from .history import load_record as load_record
from .models import CAMClassifier as CAMClassifier
from .models import GAPHead as GAPHead
from .models import gap_model as gap_model
from .visualization import Style as Style

__version__: str
