# shellcheck shell=bash
#
# test/lib.sh
#		What demo/run and test/run have in common.  Sourced, never run.
#
# The rules that both keep:
#
# * Nothing but git has to be there: what is missing is installed with apt,
#   as root or through sudo.  Where everything is there, neither is needed.
# * The checkout is not written to.  $WORK, a temporary folder, holds a copy
#   of it ($WORK/tree), the installed extension ($WORK/stage) and every
#   cluster; leaving the script, however it is left, stops those clusters and
#   removes the folder.  LLM_BATCH_KEEP=1 keeps it.
# * PostgreSQL refuses to run as root, so for root whatever touches a server
#   runs as the user "postgres", through as_pg.
# * A server that is already on the machine is neither asked nor changed.
#
# The caller sets -euo pipefail, sources this file, and calls in this order:
# begin, install_packages, make_tree, build_and_stage, start_cluster.

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
WORK=				# the temporary folder
STAGE_CONF=			# a file of settings, with which a server finds $WORK/stage
PG_BIN=				# where postgres, initdb and pg_config are
PG_MAJOR=			# the version of that server
EXPLAINED=			# set when the user was told why the script ends
RUN_AS=				# whose the servers are; empty: the current user

OLDEST_MAJOR=15

if [[ -t 1 && -z ${NO_COLOR:-} && ${TERM:-dumb} != dumb ]]; then
	BOLD=$'\e[1m' FAINT=$'\e[2m' PLAIN=$'\e[0m'
else
	BOLD='' FAINT='' PLAIN=''
fi

heading() { printf '\n%s%s%s\n' "$BOLD" "$*" "$PLAIN"; }
note() { printf '%s%s%s\n' "$FAINT" "$*" "$PLAIN"; }

die() {
	printf '\n%s\n' "$*" >&2
	EXPLAINED=1
	exit 1
}

# server_log: what start_cluster's server said last, if there is one
server_log() {
	[[ -s $WORK/home/server.log ]] || return 0
	heading "The last lines of the server's log" >&2
	tail -n 20 "$WORK/home/server.log" >&2
}

# begin: the temporary folder, a clean environment, and the way out
begin() {
	local name

	umask 022
	# as root the folder must be within reach of another user: TMPDIR may not be
	WORK=$(mktemp -d "$([[ $EUID = 0 ]] && echo /tmp || echo "${TMPDIR:-/tmp}")/llm_batch.XXXXXX")
	trap cleanup EXIT
	trap 'exit 129' HUP
	trap 'exit 130' INT
	trap 'exit 143' TERM
	chmod 755 "$WORK"
	mkdir "$WORK/log" "$WORK/home" "$WORK/tmp"
	STAGE_CONF=$WORK/stage.conf
	: >"$STAGE_CONF"
	chmod 1777 "$WORK/tmp"

	# no server of the user's is to be reached by accident
	for name in HOST HOSTADDR PORT DATABASE USER PASSWORD PASSFILE SERVICE \
		SERVICEFILE OPTIONS DATA SSLMODE TZ DATESTYLE; do
		unset "PG$name"
	done
	export LC_ALL=C.UTF-8 PGCLIENTENCODING=UTF8
}

# cleanup: for the EXIT trap; keeps the exit status
cleanup() {
	local status=$? pidfile

	trap - EXIT
	trap '' HUP INT TERM
	cd /
	if [[ -z $EXPLAINED ]] && ((status != 0 && status < 129)); then
		server_log
	fi
	while IFS= read -r pidfile; do
		as_pg "$PG_BIN/pg_ctl" stop -s -m immediate \
			-D "${pidfile%/*}" >"$WORK/log/stop" 2>&1 || true
	done < <(find "$WORK" -name postmaster.pid 2>/dev/null)
	if [[ -n ${LLM_BATCH_KEEP:-} ]]; then
		note "Kept: $WORK"
	else
		rm -rf "$WORK"
	fi
	exit "$status"
}

# quietly NAME COMMAND…: what it prints is shown only if it fails
quietly() {
	local log=$WORK/log/$1

	shift
	if ! "$@" >"$log" 2>&1 </dev/null; then
		printf '\n' >&2
		tail -n 40 "$log" >&2
		server_log
		die "This failed: $*"
	fi
}

have() { command -v "$1" >/dev/null 2>&1; }

# as_root COMMAND…
as_root() {
	if ((EUID == 0)); then
		"$@"
	else
		sudo "$@"
	fi
}

# as_pg COMMAND…: as a user whom PostgreSQL accepts
as_pg() {
	local -a become=()

	if [[ -n $RUN_AS ]]; then
		become=(setpriv --reuid="$RUN_AS" --regid="$(id -g "$RUN_AS")" --init-groups)
	fi
	"${become[@]}" env HOME="$WORK/home" TMPDIR="$WORK/tmp" "$@"
}

# usable BINDIR: a server with its headers, new enough; sets PG_BIN, PG_MAJOR
usable() {
	local config=$1/pg_config version

	[[ -x $1/postgres && -x $1/initdb && -x $config ]] || return 1
	[[ -f $("$config" --includedir-server)/postgres.h && -f $("$config" --pgxs) ]] || return 1
	version=$("$config" --version | sed -E 's/^PostgreSQL ([0-9]+).*/\1/')
	((version >= OLDEST_MAJOR)) || return 1
	PG_BIN=$1
	# shellcheck disable=SC2034  # for the caller
	PG_MAJOR=$version
}

# pick_pg: PG_CONFIG if it is set, else the newest version of the
# distribution's layout, else what is in the PATH
pick_pg() {
	local dir

	if [[ -n ${PG_CONFIG:-} ]]; then
		usable "$("$PG_CONFIG" --bindir)" ||
			die "PG_CONFIG=$PG_CONFIG: no server of version $OLDEST_MAJOR or later with its headers."
		return 0
	fi
	while IFS= read -r dir; do
		usable "$dir" && return 0
	done < <(printf '%s\n' /usr/lib/postgresql/*/bin | sort -t/ -k5,5nr)
	have pg_config && usable "$(pg_config --bindir)"
}

# pg_packages: the packages of the server to install; an installed one
# without its headers comes before a new one
pg_packages() {
	local major

	major=$(printf '%s\n' /usr/lib/postgresql/*/bin/postgres | sort -t/ -k5,5nr |
		sed -nE 's#^/usr/lib/postgresql/([0-9]+)/.*#\1#p' | head -n 1)
	if [[ -z $major ]] || ((major < OLDEST_MAJOR)); then
		major=$(apt-cache depends postgresql 2>/dev/null |
			sed -nE 's/^ *Depends: postgresql-([0-9]+)$/\1/p' | sort -nr | head -n 1)
	fi
	[[ -n $major ]] || die "apt knows no package \"postgresql\"."
	((major >= OLDEST_MAJOR)) ||
		die "This distribution has PostgreSQL $major; llm_batch needs $OLDEST_MAJOR or later." \
			"The PGDG repository has newer ones."
	[[ -x /usr/lib/postgresql/$major/bin/postgres ]] || echo "postgresql-$major"
	echo "postgresql-server-dev-$major"
}

# missing_packages build|test…: what has to be installed for that, by what is
# missed: libcurl's headers, say, come in more than one package
missing_packages() {
	local purpose

	for purpose; do
		case $purpose in
			build)
				have make || echo make
				have gcc || echo gcc
				[[ -f /usr/include/stdio.h ]] || echo libc6-dev
				have pkg-config || echo pkg-config
				{ have pkg-config && pkg-config --exists libcurl; } || echo libcurl4-openssl-dev
				;;
			test)
				have clang || echo clang
				have python3 || echo python3
				have openssl || echo openssl
				perl -MIPC::Run -MTest::More -e 1 2>/dev/null || echo libipc-run-perl
				;;
		esac
	done
}

# install_packages build|test…: and a PostgreSQL server
install_packages() {
	local -a packages pg=()
	local apt=(apt-get -o DPkg::Lock::Timeout=300) wanted

	mapfile -t packages < <(missing_packages "$@")
	if ! pick_pg || ((${#packages[@]} > 0)); then
		wanted=${packages[*]}
		[[ -n $PG_BIN ]] || wanted+=" a PostgreSQL server ($OLDEST_MAJOR or later) with its headers"
		have apt-get || die "Missing, and there is no apt-get to install it: $wanted"
		((EUID == 0)) || have sudo || die "Missing: $wanted. Run this as root, or install sudo."

		note "Looking for packages …"
		quietly apt-update as_root "${apt[@]}" update
		[[ -n $PG_BIN ]] || mapfile -t pg < <(pg_packages)
		packages+=("${pg[@]}")
		((${#packages[@]} > 0)) || exit 1
		note "Installing ${packages[*]} …"
		quietly apt-install as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 \
			"${apt[@]}" install -y --no-install-recommends "${packages[@]}"
		hash -r
		mapfile -t packages < <(missing_packages "$@")
		((${#packages[@]} == 0)) || die "Installed, and still not found: ${packages[*]}"
		pick_pg || die "PostgreSQL's packages are installed, but no server with its headers was found."
	fi
	export PG_CONFIG=$PG_BIN/pg_config PATH=$PG_BIN:$PATH

	if ((EUID == 0)); then
		RUN_AS=postgres
		id -u postgres >/dev/null 2>&1 || RUN_AS=nobody
	fi
	give_to_pg "$WORK/home"
}

# give_to_pg PATH…
give_to_pg() {
	[[ -z $RUN_AS ]] || chown -R "$RUN_AS:$(id -g "$RUN_AS")" "$@"
}

# make_tree: $WORK/tree, the checkout without what was built or left in it
make_tree() {
	mkdir "$WORK/tree"
	tar -C "$TOP" -cf - --exclude='*.o' --exclude='*.bc' --exclude='*.so' \
		--exclude=./.git --exclude=./results --exclude=./tmp_check \
		--exclude=./output_iso --exclude=./log . |
		tar -C "$WORK/tree" --no-same-owner -xf -
	give_to_pg "$WORK/tree"
	cd "$WORK/tree" || exit
}

# in_tree COMMAND…
in_tree() { (cd "$WORK/tree" && as_pg "$@"); }

# build_and_stage: builds in $WORK/tree and installs where only our servers
# look.  A server that cannot be told to look elsewhere (before 18, and without
# Debian's extension_destdir) gets the extension into its own folders.
build_and_stage() {
	local settings libdir sharedir stage=$WORK/stage

	quietly build in_tree make -s -j "$(nproc)" with_llvm=no

	settings=$("$PG_BIN/postgres" --describe-config | cut -f 1)
	libdir=$("$PG_CONFIG" --pkglibdir)
	sharedir=$("$PG_CONFIG" --sharedir)
	if grep -qx extension_control_path <<<"$settings"; then
		echo "extension_control_path = '$stage$sharedir:\$system'" >>"$STAGE_CONF"
	elif grep -qx extension_destdir <<<"$settings"; then
		echo "extension_destdir = '$stage'" >>"$STAGE_CONF"
	else
		note "This server finds extensions in its own folders only: installing there."
		if [[ -w $libdir && -w $sharedir/extension ]]; then
			quietly install make -s -C "$WORK/tree" install with_llvm=no
		else
			quietly install as_root env PATH="$PATH" \
				make -s -C "$WORK/tree" install with_llvm=no PG_CONFIG="$PG_CONFIG"
		fi
		return 0
	fi
	echo "dynamic_library_path = '$stage$libdir:\$libdir'" >>"$STAGE_CONF"
	mkdir "$stage"
	give_to_pg "$stage"
	quietly install in_tree make -s install with_llvm=no DESTDIR="$stage"
}

# start_cluster SETTING…: a cluster that listens on a socket in $WORK alone,
# and psql_do, a psql that talks to it
start_cluster() {
	local data=$WORK/data

	export PGHOST=$WORK/socket PGUSER=postgres PGDATABASE=postgres
	mkdir -m 700 "$data" "$PGHOST"
	give_to_pg "$data" "$PGHOST"
	quietly initdb as_pg "$PG_BIN/initdb" -N -A trust -E UTF8 --no-locale -U postgres -D "$data"
	{
		cat "$STAGE_CONF"
		echo "listen_addresses = ''"
		echo "unix_socket_directories = '$PGHOST'"
		echo "fsync = off"
		printf '%s\n' "$@"
	} | as_pg tee -a "$data/postgresql.conf" >/dev/null
	as_pg touch "$WORK/home/server.log"
	quietly start as_pg "$PG_BIN/pg_ctl" start -w -D "$data" -l "$WORK/home/server.log"
}

psql_do() { "$PG_BIN/psql" -X -q -P pager=off -v ON_ERROR_STOP=1 "$@"; }
