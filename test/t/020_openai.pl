# What every provider has to keep, with OpenAI: see Properties.pm.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use Properties;

Properties::check('openai');
