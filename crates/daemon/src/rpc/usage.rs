//! Figures as CRI has them: the parts that containers' and pods' statistics share.

use cri::v1;

use crate::stats::{ContainerSample, Interface, Network, Sample};

use super::encode;
use crate::runtime::Runtime;

/// `CpuUsage`
pub(super) fn cpu(sample: &Sample) -> v1::CpuUsage {
    v1::CpuUsage {
        timestamp: sample.taken_at_ns,
        usage_core_nano_seconds: measured(sample.cpu_ns),
        usage_nano_cores: measured(sample.nano_cores),
        psi: sample.cpu_pressure.as_ref().map(pressure),
    }
}

/// `MemoryUsage`
pub(super) fn memory(sample: &Sample) -> v1::MemoryUsage {
    v1::MemoryUsage {
        timestamp: sample.taken_at_ns,
        working_set_bytes: measured(sample.working_set_bytes),
        available_bytes: measured(sample.available_bytes),
        usage_bytes: measured(sample.memory_bytes),
        rss_bytes: measured(sample.rss_bytes),
        page_faults: measured(sample.page_faults),
        major_page_faults: measured(sample.major_page_faults),
        psi: sample.memory_pressure.as_ref().map(pressure),
    }
}

/// `IoUsage`, which is pressure and nothing else.
pub(super) fn io(sample: &Sample) -> Option<v1::IoUsage> {
    sample.io_pressure.as_ref().map(|io| v1::IoUsage {
        timestamp: sample.taken_at_ns,
        psi: Some(pressure(io)),
    })
}

/// `NetworkUsage`: the default interface, and all others beside it.
pub(super) fn network(network: &Network) -> v1::NetworkUsage {
    let mut interfaces = network.interfaces.iter();
    let default = network
        .interfaces
        .first()
        .filter(|first| !first.is_loopback());
    if default.is_some() {
        interfaces.next();
    }
    v1::NetworkUsage {
        timestamp: network.taken_at_ns,
        default_interface: default.map(interface),
        interfaces: interfaces.map(interface).collect(),
    }
}

fn interface(interface: &Interface) -> v1::NetworkInterfaceUsage {
    v1::NetworkInterfaceUsage {
        name: interface.name.clone(),
        rx_bytes: value(interface.received.bytes),
        rx_errors: value(interface.received.errors),
        tx_bytes: value(interface.sent.bytes),
        tx_errors: value(interface.sent.errors),
    }
}

/// `ContainerStats`
pub(super) fn container(runtime: &Runtime, sample: &ContainerSample) -> v1::ContainerStats {
    let ContainerSample {
        container,
        cgroup,
        writable_layer,
    } = sample;
    v1::ContainerStats {
        attributes: Some(v1::ContainerAttributes {
            id: container.id.to_string(),
            metadata: Some(encode::container_metadata(&container.config.metadata)),
            labels: container.config.labels.clone(),
            annotations: container.config.annotations.clone(),
        }),
        cpu: Some(cpu(cgroup)),
        memory: Some(memory(cgroup)),
        writable_layer: writable_layer.map(|layer| v1::FilesystemUsage {
            timestamp: layer.measured_at_ns,
            fs_id: Some(v1::FilesystemIdentifier {
                mountpoint: runtime
                    .overlay
                    .container_dir(container.id.as_str())
                    .display()
                    .to_string(),
            }),
            used_bytes: value(layer.bytes),
            inodes_used: value(layer.inodes),
        }),
        swap: cgroup.swap_bytes.map(|swap| v1::SwapUsage {
            timestamp: cgroup.taken_at_ns,
            swap_available_bytes: measured(cgroup.swap_available_bytes),
            swap_usage_bytes: value(swap),
        }),
        io: io(cgroup),
    }
}

/// CRI has the whole stall in nanoseconds, the kernel in microseconds.
fn pressure(pressure: &cgroup::Pressure) -> v1::PsiStats {
    let stall = |stall: &cgroup::Stall| v1::PsiData {
        total: stall.total_us.saturating_mul(1000),
        avg10: stall.avg10,
        avg60: stall.avg60,
        avg300: stall.avg300,
    };
    v1::PsiStats {
        full: Some(stall(&pressure.full)),
        some: Some(stall(&pressure.some)),
    }
}

pub(super) fn value(value: u64) -> Option<v1::UInt64Value> {
    Some(v1::UInt64Value { value })
}

fn measured(figure: Option<u64>) -> Option<v1::UInt64Value> {
    figure.and_then(value)
}
