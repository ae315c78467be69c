#!/bin/sh
# /init of the initial RAM file system (busybox): what it takes to see the disks, and over to the root on the first of them.
# The kernel puts `longshore_init=` of its command line into the environment.
mount -t devtmpfs devtmpfs /dev
for driver in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk virtio_console; do
    insmod "/$driver.ko"
done
until [ -b /dev/vdd ] && [ -c /dev/hvc0 ]; do sleep 0.01; done
mount -t ext4 /dev/vda /root
mkdir -p /root/longshore
mount -t ext4 -o ro /dev/vdb /root/longshore
cp /root/longshore/*.service /root/etc/systemd/system/
mount --move /dev /root/dev
exec switch_root /root "$longshore_init"
