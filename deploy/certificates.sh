#!/bin/sh
# Certificates for a relay of one's own: a certificate authority, and a key and a certificate for each machine.
#
#   deploy/certificates.sh FOLDER NAME[,NAME...] ...
#
# A machine's names are the hosts and IP addresses at which others reach it; the first also names its files. A client
# that nobody connects to may have any name. FOLDER/ca.pem is what all machines need; FOLDER/NAME.pem and NAME-key.pem
# are for that machine only, and ca-key.pem, which makes new ones, belongs on none of them.
set -eu
days=825 # of a machine's certificate

if [ $# -lt 2 ]; then
    sed -n '4s/^#  */usage: /p' "$0" >&2
    exit 2
fi
umask 077
mkdir -p "$1"
cd "$1"
shift

new_key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1"; }

if [ ! -e ca-key.pem ]; then
    new_key ca-key.pem
    openssl req -x509 -new -key ca-key.pem -days 3650 -subj "/CN=familial" -out ca.pem \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign
fi
for names; do
    name=${names%%,*}
    alternatives=
    for each in $(printf %s "$names" | tr , ' '); do
        case $each in
            *[!0-9.]*) case $each in *:*) kind=IP ;; *) kind=DNS ;; esac ;;
            *) kind=IP ;;
        esac
        alternatives=$alternatives,$kind:$each
    done
    new_key "$name-key.pem"
    printf '%s\n' "subjectAltName=${alternatives#,}" keyUsage=critical,digitalSignature \
        extendedKeyUsage=serverAuth,clientAuth basicConstraints=critical,CA:FALSE >"$name.cnf"
    openssl req -new -key "$name-key.pem" -subj "/CN=$name" |
        openssl x509 -req -CA ca.pem -CAkey ca-key.pem -set_serial "0x$(openssl rand -hex 16)" -days "$days" \
            -extfile "$name.cnf" -out "$name.pem" 2>/dev/null
    rm "$name.cnf"
    chmod 644 "$name.pem"
done
chmod 644 ca.pem
