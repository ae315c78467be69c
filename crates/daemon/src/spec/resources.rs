//! `linux.resources`.

use std::collections::HashMap;

use oci_spec::runtime::{LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxResources};

use super::{Host, SpecError, SpecInput, devices};
use crate::pod::config::LinuxResources as Asked;

const PATH: &str = "config.linux.resources";

pub(super) fn container_resources(input: &SpecInput<'_>) -> Result<LinuxResources, SpecError> {
    let linux = &input.container.linux;
    let mut resources = linux_resources(&linux.resources, input.host)?;
    let rules = devices::rules(input.devices, linux.security_context.privileged);
    resources.set_devices(Some(rules));
    Ok(resources)
}

/// What a request asks of a cgroup, on this node. Zeros and empty texts are left out; what the node's kernel cannot do is
/// refused, unless asking for it changes nothing.
fn linux_resources(asked: &Asked, host: &Host) -> Result<LinuxResources, SpecError> {
    let mut resources = LinuxResources::default();
    resources
        .set_devices(None)
        .set_memory(memory(asked, host)?)
        .set_cpu(cpu(asked))
        .set_pids(None)
        .set_block_io(None)
        .set_hugepage_limits(hugepages(asked, host)?)
        .set_network(None)
        .set_rdma(None)
        .set_unified(unified(asked, host)?);
    Ok(resources)
}

fn cpu(asked: &Asked) -> Option<LinuxCpu> {
    let text = |list: &str| (!list.is_empty()).then(|| list.to_owned());
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(Some(asked.cpu_shares).filter(|shares| *shares != 0))
        .set_quota(Some(asked.cpu_quota).filter(|quota| *quota != 0))
        .set_period(Some(asked.cpu_period).filter(|period| *period != 0))
        .set_cpus(text(&asked.cpuset_cpus))
        .set_mems(text(&asked.cpuset_mems));
    (cpu != LinuxCpu::default()).then_some(cpu)
}

/// A limit without a limit of swap allows none, as kubelets mean it, where the kernel counts swap.
fn memory(asked: &Asked, host: &Host) -> Result<Option<LinuxMemory>, SpecError> {
    let limit = Some(asked.memory_limit_in_bytes).filter(|limit| *limit != 0);
    let swap = match (asked.memory_swap_limit_in_bytes, host.swap_accounting) {
        (0, true) => limit,
        (0, false) => None,
        (swap, true) => Some(swap),
        // No limit, or none beside the memory's, is what there is without accounting of swap.
        (swap, false) if swap < 0 || Some(swap) == limit => None,
        (swap, false) => {
            return Err(SpecError::field(
                format!("{PATH}.memory_swap_limit_in_bytes"),
                swap,
                "this node's kernel does not account for swap: leave it out",
            ));
        }
    };
    let mut memory = LinuxMemory::default();
    memory.set_limit(limit).set_swap(swap);
    Ok((memory != LinuxMemory::default()).then_some(memory))
}

/// Kubelets send a limit of 0 for every page size they know of, whether the node has it or not.
fn hugepages(asked: &Asked, host: &Host) -> Result<Option<Vec<LinuxHugepageLimit>>, SpecError> {
    let mut limits = Vec::new();
    for (index, limit) in asked.hugepage_limits.iter().enumerate() {
        let field = || format!("{PATH}.hugepage_limits[{index}]");
        if !host.hugepage_sizes.contains(&limit.page_size) {
            if limit.limit == 0 {
                continue;
            }
            return Err(SpecError::field(
                field(),
                format_args!("{} of {}", limit.limit, limit.page_size),
                "this node's kernel cannot limit pages of this size: leave it out",
            ));
        }
        // u64::MAX is how some clients say "unlimited"; the specification has a signed number.
        let bytes = i64::try_from(limit.limit).unwrap_or(i64::MAX);
        let mut planned = LinuxHugepageLimit::default();
        planned
            .set_page_size(limit.page_size.clone())
            .set_limit(bytes);
        limits.push(planned);
    }
    Ok((!limits.is_empty()).then_some(limits))
}

fn unified(asked: &Asked, host: &Host) -> Result<Option<HashMap<String, String>>, SpecError> {
    match asked.unified.keys().next() {
        None => Ok(None),
        Some(name) if !host.cgroup_v2 => Err(SpecError::field(
            format!("{PATH}.unified"),
            format_args!("{name:?}"),
            "this node uses cgroup v1: leave it out",
        )),
        Some(_) => {
            let files = asked.unified.iter();
            Ok(Some(files.map(|(k, v)| (k.clone(), v.clone())).collect()))
        }
    }
}
