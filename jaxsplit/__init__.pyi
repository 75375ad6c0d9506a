"""Public names of jaxsplit and their modules: read by type checkers, and by `__init__.py`."""

from jaxsplit import bitstream as bitstream
from jaxsplit import codec as codec
from jaxsplit import cost as cost
from jaxsplit import data as data
from jaxsplit import deploy as deploy
from jaxsplit import entropy as entropy
from jaxsplit import errors as errors
from jaxsplit import evaluation as evaluation
from jaxsplit import experiments as experiments
from jaxsplit import family as family
from jaxsplit import networks as networks
from jaxsplit import ops as ops
from jaxsplit import reports as reports
from jaxsplit import search as search
from jaxsplit import split as split
from jaxsplit import tasks as tasks
from jaxsplit import train as train
from jaxsplit import units as units
from jaxsplit import weights as weights
from jaxsplit.bitstream import CodingTables as CodingTables
from jaxsplit.bitstream import EntropyCoder as EntropyCoder
from jaxsplit.codec import Receiver as Receiver
from jaxsplit.codec import Sender as Sender
from jaxsplit.cost import make_plan as make_plan
from jaxsplit.cost import split_cost as split_cost
from jaxsplit.data import Preprocessing as Preprocessing
from jaxsplit.data import open_source as open_source
from jaxsplit.entropy import FactorizedPrior as FactorizedPrior
from jaxsplit.errors import JaxsplitError as JaxsplitError
from jaxsplit.errors import JaxsplitWarning as JaxsplitWarning
from jaxsplit.evaluation.curve import Curve as Curve
from jaxsplit.evaluation.evaluate import evaluate as evaluate
from jaxsplit.experiments.adapt import adapt as adapt
from jaxsplit.family import RateFamily as RateFamily
from jaxsplit.family.pretrained import load_pretrained as load_pretrained
from jaxsplit.family.pretrained import pretrained_names as pretrained_names
from jaxsplit.networks import make_backbone as make_backbone
from jaxsplit.split import Split as Split
from jaxsplit.split import make_split as make_split
from jaxsplit.tasks import Task as Task
from jaxsplit.train.config import CurveConfig as CurveConfig
from jaxsplit.train.curve import train_curve as train_curve
from jaxsplit.train.curve import train_family as train_family
from jaxsplit.train.last_layer import fit_head as fit_head
from jaxsplit.train.losses import Distortion as Distortion
from jaxsplit.train.step import Phase as Phase
from jaxsplit.train.step import Rate as Rate
from jaxsplit.units import Bottleneck as Bottleneck
from jaxsplit.units import BottleneckSpec as BottleneckSpec
from jaxsplit.units import Unit as Unit
from jaxsplit.units import per_tensor as per_tensor
from jaxsplit.weights.load import load_backbone as load_backbone

__version__: str
__all__: list[str]
