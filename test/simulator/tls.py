"""A throw-away certification authority and a server certificate, made by openssl."""

import fcntl
import os
import ssl
import subprocess

CONFIG = """
[req]
distinguished_name = name
prompt = no
[name]
CN = {name}
[ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = DNS:localhost, IP:127.0.0.1
authorityKeyIdentifier = keyid
"""


def openssl(directory, *arguments):
    done = subprocess.run(["openssl", *arguments], cwd=directory, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"openssl {' '.join(arguments)}: {done.stderr}")


def make(directory):
    for name in ("ca", "server"):
        with open(os.path.join(directory, f"{name}.cnf"), "w", encoding="ascii") as config:
            config.write(CONFIG.format(name=f"simulator {name}"))
        openssl(directory, "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{name}.key")
        os.chmod(os.path.join(directory, f"{name}.key"), 0o600)
    openssl(directory, "req", "-x509", "-new", "-key", "ca.key", "-days", "3650", "-config", "ca.cnf",
            "-extensions", "ca", "-out", "ca.pem")
    openssl(directory, "req", "-new", "-key", "server.key", "-config", "server.cnf", "-out", "server.csr")
    openssl(directory, "x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
            "-set_serial", str(int.from_bytes(os.urandom(8), "big")), "-days", "3650",
            "-extfile", "server.cnf", "-extensions", "server", "-out", "server.pem")


def context(directory):
    """A server context; ca.pem in the directory is what clients have to trust."""
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, "lock"), "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)        # two simulators may share the directory
        if not os.path.exists(os.path.join(directory, "server.pem")):
            make(directory)
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(os.path.join(directory, "server.pem"), os.path.join(directory, "server.key"))
    made.set_alpn_protocols(["http/1.1"])
    return made
