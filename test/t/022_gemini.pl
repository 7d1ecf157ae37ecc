# What every provider has to keep, with Gemini: see Properties.pm.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use Properties;

Properties::check('gemini');
