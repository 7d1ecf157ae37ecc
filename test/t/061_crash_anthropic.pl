# The worker dies at every point of a job's life, with Anthropic: see CrashMatrix.pm.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use CrashMatrix;

CrashMatrix::check('anthropic');
