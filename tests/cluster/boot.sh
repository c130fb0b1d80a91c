#!/bin/bash
# boot.sh FOLDER NAME VENV PYTHON CODE: process 1 of one machine, in namespaces of its own; machines.py starts it.
# The machine's root is this machine's, seen through an overlay: what it writes is its own, and is gone with it.
set -eu
folder=$1 name=$2 venv=$3 python=$4 code=$5
overlay() { # LOWER WHERE
  mkdir -p "$layers$1/upper" "$layers$1/work" "$2"
  mount -t overlay overlay -o "lowerdir=$1,upperdir=$layers$1/upper,workdir=$layers$1/work" "$2"
}
mount --make-rprivate /
hostname "$name"
layers=$folder/$name # a file system of its own: an upper layer may not lie inside its lower one
mount -t tmpfs -o size=6g tmpfs "$layers"
root=$layers/root
overlay / "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o size=2g tmpfs "$root/dev/shm"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs -o size=4g tmpfs "$root/tmp"
chmod 1777 "$root/tmp"
mount -t tmpfs -o mode=700 tmpfs "$root/root" # a fresh home
mkdir -p "$root/run/sshd"
for shown in "$folder" "$python" "$code"; do
  mkdir -p "$root$shown"
  mount --bind "$shown" "$root$shown"
done
overlay "$venv" "$root$venv"
cd "$root"
ln -s "$venv" root/venv # where the cluster's set-up would make it
# No network, so nothing can be downloaded: all that pip is asked for is there, and must be found to be.
printf '[global]\nno-index = true\ndisable-pip-version-check = true\n[install]\nno-build-isolation = false\n' >etc/pip.conf # pip's "no-" options count backwards
# No name servers either, or Ray waits for them.
: >etc/resolv.conf
sed -i 's/^hosts:.*/hosts: files/' etc/nsswitch.conf
cp "$folder/hosts" etc/hosts
exec env -i HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
  chroot . /usr/sbin/sshd -D -e -f "$folder/sshd_config"
