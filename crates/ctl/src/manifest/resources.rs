use cri::v1::LinuxContainerResources;

use super::fields::{ResourceList, ResourceRequirements};
use super::quantity::Quantity;

const CPU_PERIOD_US: i64 = 100_000;
/// The kernel's least.
const MIN_SHARES: i64 = 2;
const MIN_QUOTA_US: i64 = 1_000;

/// As the kubelet computes them: shares from the request (or else the limit), a quota from the limit.
pub(super) fn linux(
    required: &ResourceRequirements,
    path: &str,
) -> Result<Option<LinuxContainerResources>, String> {
    let ResourceRequirements { limits, requests } = required;
    check(limits, requests, path)?;
    let mut resources = LinuxContainerResources::default();
    if let Some(milli) = requests.cpu.or(limits.cpu).and_then(Quantity::milli) {
        resources.cpu_shares = (milli.saturating_mul(1_024) / 1_000).max(MIN_SHARES);
    }
    if let Some(milli) = limits.cpu.and_then(Quantity::milli) {
        resources.cpu_period = CPU_PERIOD_US;
        resources.cpu_quota = (milli.saturating_mul(CPU_PERIOD_US) / 1_000).max(MIN_QUOTA_US);
    }
    if let Some(bytes) = limits.memory.and_then(Quantity::whole) {
        resources.memory_limit_in_bytes = bytes;
    }
    Ok((resources != LinuxContainerResources::default()).then_some(resources))
}

fn check(limits: &ResourceList, requests: &ResourceList, path: &str) -> Result<(), String> {
    let zero = Quantity::parse("0")?;
    for (name, limit, request) in [
        ("cpu", limits.cpu, requests.cpu),
        ("memory", limits.memory, requests.memory),
    ] {
        for (kind, quantity) in [("limits", limit), ("requests", request)] {
            if quantity.is_some_and(|q| q < zero || q.milli().is_none()) {
                return Err(format!("{path}.{kind}.{name}: out of range"));
            }
        }
        if let (Some(limit), Some(request)) = (limit, request)
            && request > limit
        {
            return Err(format!("{path}.requests.{name}: more than its limit"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(yaml: &str) -> Result<Option<LinuxContainerResources>, String> {
        linux(&serde_saphyr::from_str(yaml).unwrap(), "resources")
    }

    #[test]
    fn limits_become_quotas_and_requests_shares() {
        let both = "limits: {cpu: 500m, memory: 64Mi}\nrequests: {cpu: 0.25}";
        let resources = translated(both).unwrap().unwrap();
        assert_eq!(resources.cpu_shares, 256);
        assert_eq!(
            (resources.cpu_quota, resources.cpu_period),
            (50_000, 100_000)
        );
        assert_eq!(resources.memory_limit_in_bytes, 64 << 20);
        let limit = translated("limits: {cpu: 2}").unwrap().unwrap();
        assert_eq!((limit.cpu_shares, limit.cpu_quota), (2_048, 200_000));
        let tiny = translated("limits: {cpu: 1m}").unwrap().unwrap();
        assert_eq!((tiny.cpu_shares, tiny.cpu_quota), (2, 1_000));
        assert_eq!(translated("{}").unwrap(), None);
        assert_eq!(
            translated("limits: {cpu: 1}\nrequests: {cpu: 2}").unwrap_err(),
            "resources.requests.cpu: more than its limit"
        );
        assert!(translated("limits: {memory: -1}").is_err());
    }
}
