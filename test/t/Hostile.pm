# A provider that turns hostile on demand: hostile.py between the extension
# and the simulator.
#
#	my $hostile = Hostile->start($sim);
#	create_server($node, $hostile);
#	$hostile->rule(method => 'GET', path => '/content$', how => 'bom', times => 1);
#
# It ends with the test, however that ends.
package Hostile;

use strict;
use warnings;

use File::Basename qw(dirname);
use HTTP::Tiny;
use JSON::PP ();
use POSIX ();

my %running;

sub start
{
	my ($class, $sim) = @_;
	my $self = bless { http => HTTP::Tiny->new(timeout => 60) }, $class;

	pipe my $child_in, my $in or die "pipe: $!";
	pipe my $out, my $child_out or die "pipe: $!";
	my $pid = fork // die "fork: $!";
	if ($pid == 0)
	{
		open STDIN, '<&', $child_in;
		open STDOUT, '>&', $child_out;
		close $in;
		exec $sim->{python}, dirname(__FILE__) . '/hostile.py', '--upstream', $sim->port or POSIX::_exit(127);
	}
	@$self{qw(pid stdin)} = ($pid, $in);
	$running{$pid} = $self;
	close $child_in;
	close $child_out;
	my $line = <$out> // '';
	($self->{port}) = $line =~ /^port (\d+)$/ or die 'hostile.py did not start';
	return $self;
}

END
{
	my $status = $?;

	foreach my $pid (keys %running)
	{
		kill 'TERM', $pid;
		waitpid $pid, 0;
	}
	$? = $status;
}

# as of a simulator, for create_server()
sub ca_file { return undef }

# $case: see hostile.py
sub base_url
{
	my ($self, $api, $case) = @_;
	return "http://127.0.0.1:$self->{port}" . (defined $case ? "/case-$case" : '') . (($api // 'openai') eq 'openai' ? '/v1' : '');
}

sub call
{
	my ($self, $method, $data) = @_;
	my $reply = $self->{http}->request($method, "http://127.0.0.1:$self->{port}/_hostile",
		{ defined $data ? (content => JSON::PP->new->ascii->encode($data)) : () });

	die "$method: $reply->{status} $reply->{content}" if !$reply->{success};
	return JSON::PP->new->decode($reply->{content});
}

sub rule { my ($self, %rule) = @_; return $self->call('POST', [ \%rule ]) }
sub clear { return $_[0]->call('DELETE') }
sub fired { my $n = 0; $n += $_->{fired} foreach @{ $_[0]->call('GET')->{rules} }; return $n }
sub trapped { return @{ $_[0]->call('GET')->{trapped} } }

1;
