//! `linux.resources`.

use std::collections::HashMap;

use oci_spec::runtime::{LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxResources};

use super::{Host, SpecError, SpecInput, devices};
use crate::pod::config::LinuxResources as Asked;

const PATH: &str = "config.linux.resources";

pub(super) fn container_resources(input: &SpecInput<'_>) -> Result<LinuxResources, SpecError> {
    let linux = &input.container.linux;
    let mut resources = Node {
        path: PATH,
        host: input.host,
    }
    .resources(&linux.resources)?;
    let rules = devices::rules(input.devices, linux.security_context.privileged);
    resources
        .set_devices(Some(rules))
        .set_block_io(input.classes.block_io.clone());
    Ok(resources)
}

/// A change of a container's resources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ResourceChange {
    /// All that is asked for from now on.
    pub(crate) asked: Asked,
    /// What is to be set for that.
    pub(crate) set: LinuxResources,
    /// `linux.resources` from now on, without devices.
    pub(crate) whole: LinuxResources,
}

/// What becomes of resources when a request changes some of them. What the request leaves out stays.
pub(crate) fn change_resources(
    now: &Asked,
    change: &Asked,
    host: &Host,
) -> Result<ResourceChange, SpecError> {
    let path = "linux";
    let asked = merged(now, change);
    let (memory, swap) = (
        asked.memory_limit_in_bytes,
        asked.memory_swap_limit_in_bytes,
    );
    // Unlimited memory with a limit of both is none that either version could set.
    if swap > 0 && !(1..=swap).contains(&memory) {
        let (field, value) = match change.memory_swap_limit_in_bytes {
            0 => ("memory_limit_in_bytes", memory),
            swap => ("memory_swap_limit_in_bytes", swap),
        };
        return Err(SpecError::field(
            format!("{path}.{field}"),
            value,
            format!(
                "the container would have {memory} bytes of memory and {swap} of memory and swap together: set both"
            ),
        ));
    }
    // A limit of memory brings that of swap along, and the other way round.
    let mut to_set = change.clone();
    if change.memory_limit_in_bytes != 0 || change.memory_swap_limit_in_bytes != 0 {
        to_set.memory_limit_in_bytes = memory;
        to_set.memory_swap_limit_in_bytes = swap;
    }
    let node = Node { path, host };
    Ok(ResourceChange {
        set: node.resources(&to_set)?,
        whole: node.resources(&asked)?,
        asked,
    })
}

fn merged(now: &Asked, change: &Asked) -> Asked {
    fn pick<T: Default + PartialEq + Clone>(now: &T, change: &T) -> T {
        let given = *change != T::default();
        if given { change.clone() } else { now.clone() }
    }
    let mut hugepage_limits = now.hugepage_limits.clone();
    for limit in &change.hugepage_limits {
        let mut known = hugepage_limits.iter_mut();
        match known.find(|known| known.page_size == limit.page_size) {
            Some(known) => known.limit = limit.limit,
            None => hugepage_limits.push(limit.clone()),
        }
    }
    let mut unified = now.unified.clone();
    unified.extend(change.unified.clone());
    // "No swap" goes on to mean that when there is more or less memory.
    let no_swap = now.memory_swap_limit_in_bytes == now.memory_limit_in_bytes;
    let swap = match change.memory_swap_limit_in_bytes {
        0 if no_swap && now.memory_swap_limit_in_bytes != 0 => pick(
            &now.memory_swap_limit_in_bytes,
            &change.memory_limit_in_bytes,
        ),
        swap => pick(&now.memory_swap_limit_in_bytes, &swap),
    };
    Asked {
        cpu_period: pick(&now.cpu_period, &change.cpu_period),
        cpu_quota: pick(&now.cpu_quota, &change.cpu_quota),
        cpu_shares: pick(&now.cpu_shares, &change.cpu_shares),
        memory_limit_in_bytes: pick(&now.memory_limit_in_bytes, &change.memory_limit_in_bytes),
        oom_score_adj: pick(&now.oom_score_adj, &change.oom_score_adj),
        cpuset_cpus: pick(&now.cpuset_cpus, &change.cpuset_cpus),
        cpuset_mems: pick(&now.cpuset_mems, &change.cpuset_mems),
        hugepage_limits,
        unified,
        memory_swap_limit_in_bytes: swap,
    }
}

/// This node, and where in the request its resources stand.
struct Node<'a> {
    path: &'static str,
    host: &'a Host,
}

impl Node<'_> {
    /// What a request asks of a cgroup, on this node. Zeros and empty texts are left out; what the node's kernel cannot do is
    /// refused, unless asking for it changes nothing.
    fn resources(&self, asked: &Asked) -> Result<LinuxResources, SpecError> {
        let mut resources = LinuxResources::default();
        resources
            .set_devices(None)
            .set_memory(memory(asked, self)?)
            .set_cpu(cpu(asked))
            .set_pids(None)
            .set_block_io(None)
            .set_hugepage_limits(hugepages(asked, self)?)
            .set_network(None)
            .set_rdma(None)
            .set_unified(unified(asked, self)?);
        Ok(resources)
    }
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
fn memory(asked: &Asked, node: &Node<'_>) -> Result<Option<LinuxMemory>, SpecError> {
    let path = node.path;
    let limit = Some(asked.memory_limit_in_bytes).filter(|limit| *limit != 0);
    let swap = match (asked.memory_swap_limit_in_bytes, node.host.swap_accounting) {
        (0, true) => limit,
        (0, false) => None,
        (swap, true) => Some(swap),
        // No limit, or none beside the memory's, is what there is without accounting of swap.
        (swap, false) if swap < 0 || Some(swap) == limit => None,
        (swap, false) => {
            return Err(SpecError::field(
                format!("{path}.memory_swap_limit_in_bytes"),
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
fn hugepages(asked: &Asked, node: &Node<'_>) -> Result<Option<Vec<LinuxHugepageLimit>>, SpecError> {
    let path = node.path;
    let mut limits = Vec::new();
    for (index, limit) in asked.hugepage_limits.iter().enumerate() {
        let field = || format!("{path}.hugepage_limits[{index}]");
        if !node.host.hugepage_sizes.contains(&limit.page_size) {
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

fn unified(asked: &Asked, node: &Node<'_>) -> Result<Option<HashMap<String, String>>, SpecError> {
    let path = node.path;
    match asked.unified.keys().next() {
        None => Ok(None),
        Some(name) if !node.host.cgroup_v2 => Err(SpecError::field(
            format!("{path}.unified"),
            format_args!("{name:?}"),
            "this node uses cgroup v1: leave it out",
        )),
        Some(_) => {
            let files = asked.unified.iter();
            Ok(Some(files.map(|(k, v)| (k.clone(), v.clone())).collect()))
        }
    }
}
