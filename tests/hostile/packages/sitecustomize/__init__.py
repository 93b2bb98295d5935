"""Has the name of a module that an interpreter imports before anything else, long before any limit is set."""

import resource

FILE_LIMIT = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
