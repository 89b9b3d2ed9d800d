"""The operators of the graph, a file a family. ``OPERATORS`` has them by name."""

from drystone.graph.ops.aten import *
from drystone.graph.ops.convolutions import *
from drystone.graph.ops.elements import *
from drystone.graph.ops.groups import *
from drystone.graph.ops.movement import *
from drystone.graph.ops.operator import OPERATORS as OPERATORS
from drystone.graph.ops.operator import Operator as Operator
from drystone.graph.ops.operator import OperatorError as OperatorError
from drystone.graph.ops.pointwise import *
from drystone.graph.ops.products import *
from drystone.graph.ops.quantisation import *
from drystone.graph.ops.recurrent import *
from drystone.graph.ops.reductions import *
from drystone.graph.ops.weight_product import *
from drystone.graph.ops.windows import *
