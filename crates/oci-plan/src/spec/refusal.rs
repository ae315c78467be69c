//! What runtime-spec 1.2 has and the embedded core has not. One line a field. Hooks are the caller's to run: a plan has no place for them.

use oci_spec::runtime::{Linux, LinuxResources, Process, Spec};

use super::{Reach, SpecError};

pub(super) fn check(spec: &Spec, reach: Reach) -> Result<(), SpecError> {
    let far = reach == Reach::Supervisor;
    refuse(&[
        ("domainname", far && spec.domainname().is_some()),
        ("solaris", spec.solaris().is_some()),
        ("windows", spec.windows().is_some()),
        ("vm", spec.vm().is_some()),
        ("zos", spec.zos().is_some()),
        ("uidMappings", some(spec.uid_mappings())),
        ("gidMappings", some(spec.gid_mappings())),
    ])?;
    if let Some(linux) = spec.linux() {
        check_linux(linux, far)?;
    }
    if let Some(process) = spec.process() {
        check_process(process, reach)?;
    }
    Ok(())
}

fn check_linux(linux: &Linux, far: bool) -> Result<(), SpecError> {
    refuse(&[
        (
            "linux.netDevices",
            linux
                .net_devices()
                .as_ref()
                .is_some_and(|map| !map.is_empty()),
        ),
        ("linux.intelRdt", linux.intel_rdt().is_some()),
        ("linux.personality", far && linux.personality().is_some()),
        (
            "linux.timeOffsets",
            far && linux
                .time_offsets()
                .as_ref()
                .is_some_and(|map| !map.is_empty()),
        ),
    ])
}

pub(super) fn check_process(process: &Process, reach: Reach) -> Result<(), SpecError> {
    let far = reach == Reach::Supervisor;
    refuse(&[
        ("process.commandLine", text(process.command_line())),
        ("process.ioPriority", far && process.io_priority().is_some()),
        ("process.scheduler", far && process.scheduler().is_some()),
        (
            "process.execCPUAffinity",
            process.exec_cpu_affinity().is_some(),
        ),
        (
            "process.user.username",
            far && text(process.user().username()),
        ),
    ])
}

pub(super) fn check_resources(resources: &LinuxResources, reach: Reach) -> Result<(), SpecError> {
    let far = reach == Reach::Supervisor;
    let memory = resources.memory().as_ref();
    let cpu = resources.cpu().as_ref();
    let block_io = resources.block_io().as_ref();
    let network = resources.network().as_ref();
    refuse(&[
        (
            "linux.resources.memory.reservation",
            far && memory.is_some_and(|memory| memory.reservation().is_some()),
        ),
        (
            "linux.resources.memory.kernel",
            far && memory.is_some_and(|memory| memory.kernel().is_some()),
        ),
        (
            "linux.resources.memory.kernelTCP",
            far && memory.is_some_and(|memory| memory.kernel_tcp().is_some()),
        ),
        (
            "linux.resources.memory.swappiness",
            far && memory.is_some_and(|memory| memory.swappiness().is_some()),
        ),
        (
            "linux.resources.memory.disableOOMKiller",
            far && memory.is_some_and(|memory| memory.disable_oom_killer() == Some(true)),
        ),
        (
            "linux.resources.memory.useHierarchy",
            far && memory.is_some_and(|memory| memory.use_hierarchy() == Some(true)),
        ),
        (
            "linux.resources.memory.checkBeforeUpdate",
            memory.is_some_and(|memory| memory.check_before_update() == Some(true)),
        ),
        (
            "linux.resources.cpu.idle",
            far && cpu.is_some_and(|cpu| cpu.idle().is_some()),
        ),
        (
            "linux.resources.cpu.burst",
            far && cpu.is_some_and(|cpu| cpu.burst().is_some()),
        ),
        (
            "linux.resources.cpu.realtimeRuntime",
            far && cpu.is_some_and(|cpu| cpu.realtime_runtime().is_some()),
        ),
        (
            "linux.resources.cpu.realtimePeriod",
            far && cpu.is_some_and(|cpu| cpu.realtime_period().is_some()),
        ),
        (
            "linux.resources.blockIO.leafWeight",
            far && block_io.is_some_and(|block_io| block_io.leaf_weight().is_some()),
        ),
        (
            "linux.resources.blockIO.weightDevice",
            far && block_io.is_some_and(|block_io| some(block_io.weight_device())),
        ),
        (
            "linux.resources.blockIO.throttleReadBpsDevice",
            far && block_io.is_some_and(|block_io| some(block_io.throttle_read_bps_device())),
        ),
        (
            "linux.resources.blockIO.throttleWriteBpsDevice",
            far && block_io.is_some_and(|block_io| some(block_io.throttle_write_bps_device())),
        ),
        (
            "linux.resources.blockIO.throttleReadIOPSDevice",
            far && block_io.is_some_and(|block_io| some(block_io.throttle_read_iops_device())),
        ),
        (
            "linux.resources.blockIO.throttleWriteIOPSDevice",
            far && block_io.is_some_and(|block_io| some(block_io.throttle_write_iops_device())),
        ),
        (
            "linux.resources.network.classID",
            network.is_some_and(|network| network.class_id().is_some()),
        ),
        (
            "linux.resources.network.priorities",
            network.is_some_and(|network| some(network.priorities())),
        ),
        (
            "linux.resources.rdma",
            resources.rdma().as_ref().is_some_and(|map| !map.is_empty()),
        ),
    ])
}

fn refuse(fields: &[(&str, bool)]) -> Result<(), SpecError> {
    match fields.iter().find(|(_, given)| *given) {
        Some((field, _)) => Err(SpecError::Unsupported {
            field: (*field).to_owned(),
        }),
        None => Ok(()),
    }
}

fn some<T>(list: &Option<Vec<T>>) -> bool {
    list.as_ref().is_some_and(|list| !list.is_empty())
}

fn text(value: &Option<String>) -> bool {
    value.as_ref().is_some_and(|value| !value.is_empty())
}
