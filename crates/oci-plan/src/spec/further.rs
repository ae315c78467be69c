//! Limits of `linux.resources` that are a file each, and the same text in it.

use oci_spec::runtime::{LinuxResources, LinuxThrottleDevice};

use crate::FurtherLimit;

type File = Option<(&'static str, String)>;

/// `memory.kernel` is not among them: no kernel since 5.16 has
/// that limit, and most of them take it in silence.
pub(super) fn further(given: &LinuxResources) -> Vec<FurtherLimit> {
    let mut limits = Vec::new();
    memory(given, &mut limits);
    cpu(given, &mut limits);
    block_io(given, &mut limits);
    limits
}

fn limit(field: &'static str, controller: &'static str, v1: File, v2: File) -> FurtherLimit {
    FurtherLimit {
        field,
        controller,
        v1,
        v2,
    }
}

fn memory(given: &LinuxResources, limits: &mut Vec<FurtherLimit>) {
    let Some(memory) = given.memory().as_ref() else {
        return;
    };
    if let Some(bytes) = memory.reservation().filter(|bytes| *bytes != 0) {
        let v1 = ("memory.soft_limit_in_bytes", bytes.to_string());
        let v2 = ("memory.low", bytes.max(0).to_string());
        limits.push(limit("memory.reservation", "memory", Some(v1), Some(v2)));
    }
    if let Some(bytes) = memory.kernel_tcp().filter(|bytes| *bytes != 0) {
        let v1 = ("memory.kmem.tcp.limit_in_bytes", bytes.to_string());
        limits.push(limit("memory.kernelTCP", "memory", Some(v1), None));
    }
    if let Some(swappiness) = memory.swappiness() {
        let v1 = ("memory.swappiness", swappiness.to_string());
        limits.push(limit("memory.swappiness", "memory", Some(v1), None));
    }
    if memory.disable_oom_killer() == Some(true) {
        let v1 = ("memory.oom_control", "1".to_owned());
        limits.push(limit("memory.disableOOMKiller", "memory", Some(v1), None));
    }
}

fn cpu(given: &LinuxResources, limits: &mut Vec<FurtherLimit>) {
    let Some(cpu) = given.cpu().as_ref() else {
        return;
    };
    if let Some(idle) = cpu.idle() {
        let file = Some(("cpu.idle", idle.to_string()));
        limits.push(limit("cpu.idle", "cpu", file.clone(), file));
    }
    if let Some(burst) = cpu.burst() {
        let v1 = Some(("cpu.cfs_burst_us", burst.to_string()));
        let v2 = Some(("cpu.max.burst", burst.to_string()));
        limits.push(limit("cpu.burst", "cpu", v1, v2));
    }
    // The period first: the kernel holds the runtime against it.
    if let Some(period) = cpu.realtime_period().filter(|period| *period != 0) {
        let v1 = Some(("cpu.rt_period_us", period.to_string()));
        limits.push(limit("cpu.realtimePeriod", "cpu", v1, None));
    }
    if let Some(runtime) = cpu.realtime_runtime().filter(|runtime| *runtime != 0) {
        let v1 = Some(("cpu.rt_runtime_us", runtime.to_string()));
        limits.push(limit("cpu.realtimeRuntime", "cpu", v1, None));
    }
}

fn block_io(given: &LinuxResources, limits: &mut Vec<FurtherLimit>) {
    let Some(block_io) = given.block_io().as_ref() else {
        return;
    };
    if let Some(weight) = block_io.leaf_weight().filter(|weight| *weight != 0) {
        let v1 = Some(("blkio.leaf_weight", weight.to_string()));
        limits.push(limit("blockIO.leafWeight", "blkio", v1, None));
    }
    for device in block_io.weight_device().iter().flatten() {
        if let Some(weight) = device.weight() {
            let text = format!("{}:{} {weight}", device.major(), device.minor());
            let v1 = Some(("blkio.weight_device", text.clone()));
            let v2 = Some(("io.bfq.weight", text));
            limits.push(limit("blockIO.weightDevice", "blkio", v1, v2));
        }
    }
    throttle(
        "blockIO.throttleReadBpsDevice",
        block_io.throttle_read_bps_device(),
        ("blkio.throttle.read_bps_device", "rbps"),
        limits,
    );
    throttle(
        "blockIO.throttleWriteBpsDevice",
        block_io.throttle_write_bps_device(),
        ("blkio.throttle.write_bps_device", "wbps"),
        limits,
    );
    throttle(
        "blockIO.throttleReadIOPSDevice",
        block_io.throttle_read_iops_device(),
        ("blkio.throttle.read_iops_device", "riops"),
        limits,
    );
    throttle(
        "blockIO.throttleWriteIOPSDevice",
        block_io.throttle_write_iops_device(),
        ("blkio.throttle.write_iops_device", "wiops"),
        limits,
    );
}

/// v1's file, and v2's word in `io.max`.
fn throttle(
    field: &'static str,
    devices: &Option<Vec<LinuxThrottleDevice>>,
    (file, word): (&'static str, &'static str),
    limits: &mut Vec<FurtherLimit>,
) {
    for device in devices.iter().flatten() {
        let (major, minor, rate) = (device.major(), device.minor(), device.rate());
        let v1 = Some((file, format!("{major}:{minor} {rate}")));
        let v2 = Some(("io.max", format!("{major}:{minor} {word}={rate}")));
        limits.push(limit(field, "blkio", v1, v2));
    }
}
