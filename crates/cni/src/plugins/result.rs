//! What plugins print: results from 0.3.0 to 1.1.0, which for a runtime differ in nothing, and errors.

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;

use super::error::Reason;
use super::process::{Output, words};
use super::version::Version;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Parsed {
    #[serde(rename = "cniVersion")]
    version: String,
    interfaces: Vec<Interface>,
    ips: Vec<Address>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Interface {
    name: String,
    sandbox: String,
}

#[derive(Debug, Deserialize)]
struct Address {
    address: String,
    interface: Option<i64>,
}

#[derive(Debug, Deserialize)]
struct PluginFailure {
    code: u64,
    #[serde(default)]
    msg: String,
    #[serde(default)]
    details: String,
}

#[derive(Debug, Deserialize)]
struct Spoken {
    #[serde(rename = "supportedVersions")]
    supported: Vec<String>,
}

/// Whether a plugin has done what it was told.
pub(super) fn success(output: &Output) -> Result<(), Reason> {
    if output.status.success() {
        return Ok(());
    }
    if let Ok(failure) = serde_json::from_slice::<PluginFailure>(&output.stdout) {
        let message = match (failure.msg.as_str(), failure.details.as_str()) {
            ("", details) => details.to_owned(),
            (message, "") => message.to_owned(),
            (message, details) => format!("{message}; {details}"),
        };
        return Err(Reason::Refused {
            code: failure.code,
            message: words(message.as_bytes()),
        });
    }
    let said = [&output.stdout[..], b" ", &output.stderr[..]].concat();
    Err(Reason::Failed {
        how: output.status.to_string(),
        said: words(&said),
    })
}

/// The result of ADD, to be told to the next plugin.
pub(super) fn added(output: &Output) -> Result<Value, Reason> {
    success(output)?;
    let garbage = |why: String| Reason::Garbage {
        said: words(&output.stdout),
        why,
    };
    let result: Value =
        serde_json::from_slice(&output.stdout).map_err(|error| garbage(error.to_string()))?;
    let parsed = parse(&result).map_err(|error| garbage(error.to_string()))?;
    match parsed.version.as_str() {
        // A plugin may leave it out; then it is what it was asked for.
        "" => Ok(result),
        version if Version::parse(version).is_some() => Ok(result),
        version => Err(garbage(format!("cniVersion {version} is not spoken here"))),
    }
}

fn parse(result: &Value) -> Result<Parsed, serde_json::Error> {
    // `null` stands for an empty list where a program in Go wrote it.
    let mut result = result.clone();
    if let Value::Object(members) = &mut result {
        members.retain(|_, value| !value.is_null());
    }
    Parsed::deserialize(result)
}

/// The addresses of the pod's interface, in the plugins' order. One that names no interface is the pod's.
pub(super) fn addresses(result: &Value, interface: &str) -> Vec<IpAddr> {
    let Ok(parsed) = parse(result) else {
        return Vec::new();
    };
    let is_pods = |index: i64| {
        let named = usize::try_from(index)
            .ok()
            .and_then(|index| parsed.interfaces.get(index));
        named.is_some_and(|named| named.name == interface && !named.sandbox.is_empty())
    };
    parsed
        .ips
        .iter()
        .filter(|ip| ip.interface.is_none_or(is_pods))
        .filter_map(|ip| {
            let address = ip
                .address
                .split_once('/')
                .map_or(ip.address.as_str(), |(ip, _)| ip);
            address.parse().ok()
        })
        .collect()
}

/// The versions that a plugin says it speaks; `None` where it does not say.
pub(super) fn spoken(output: &Output) -> Option<Vec<Version>> {
    let spoken: Spoken = serde_json::from_slice(&output.stdout).ok()?;
    let versions = spoken.supported.iter();
    Some(versions.filter_map(|text| Version::parse(text)).collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    fn output(code: i32, stdout: &str) -> Output {
        Output {
            status: ExitStatus::from_raw(code << 8),
            stdout: stdout.as_bytes().to_vec(),
            stderr: b"last words".to_vec(),
        }
    }

    #[test]
    fn results_of_all_versions_have_the_pods_addresses() {
        for text in [
            r#"{"cniVersion": "0.3.1", "interfaces": [{"name": "cni0"}, {"name": "eth0", "sandbox": "/run/netns/x"}],
                "ips": [{"version": "4", "interface": 1, "address": "10.1.0.5/24", "gateway": "10.1.0.1"},
                        {"version": "6", "interface": 1, "address": "fd00::5/64"},
                        {"version": "4", "interface": 0, "address": "10.1.0.1/24"}], "dns": {}}"#,
            r#"{"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.5/24"}, {"address": "fd00::5/64"}], "routes": null}"#,
            r#"{"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "sandbox": "/run/netns/x", "mtu": 1400, "socketPath": "/s"}],
                "ips": [{"interface": 0, "address": "10.1.0.5/24"}, {"interface": 0, "address": "fd00::5/64"}],
                "routes": [{"dst": "0.0.0.0/0", "priority": 5, "scope": 1}]}"#,
        ] {
            let result = added(&output(0, text)).unwrap();
            let ips: Vec<_> = addresses(&result, "eth0")
                .iter()
                .map(ToString::to_string)
                .collect();
            assert_eq!(ips, ["10.1.0.5", "fd00::5"], "{text}");
        }
        let elsewhere = r#"{"cniVersion": "1.0.0", "interfaces": [{"name": "eth1", "sandbox": "/x"}],
            "ips": [{"interface": 0, "address": "10.1.0.5/24"}, {"interface": 7, "address": "10.1.0.6/24"},
                    {"interface": -1, "address": "10.1.0.7/24"}, {"address": "nonsense"}]}"#;
        let result = added(&output(0, elsewhere)).unwrap();
        assert!(addresses(&result, "eth0").is_empty());
    }

    #[test]
    fn what_is_no_result_is_quoted() {
        for (text, word) in [
            ("", "no result"),
            ("all is well", "all is well"),
            ("[1]", "[1]"),
            (r#"{"ips": [{"no": "address"}]}"#, "missing field"),
            (
                r#"{"cniVersion": "0.2.0", "ip4": {}}"#,
                "0.2.0 is not spoken",
            ),
        ] {
            let reason = added(&output(0, text)).unwrap_err().to_string();
            assert!(reason.contains(word), "{text}: {reason}");
        }
    }

    #[test]
    fn failures_are_told_in_the_plugins_words() {
        let failure = output(1, r#"{"code": 11, "msg": "try again", "details": "later"}"#);
        let reason = success(&failure).unwrap_err().to_string();
        assert_eq!(reason, "try again; later (code 11)");
        let reason = success(&output(2, "what?")).unwrap_err().to_string();
        assert_eq!(reason, "exit status: 2, saying \"what? last words\"");
    }

    #[test]
    fn versions_are_those_that_we_know() {
        let said = output(
            0,
            r#"{"cniVersion": "1.0.0", "supportedVersions": ["0.1.0", "0.3.1", "1.0.0", "7.0.0"]}"#,
        );
        assert_eq!(spoken(&said), Some(vec![Version::V0_3_1, Version::V1_0_0]));
        assert_eq!(spoken(&output(0, "")), None);
    }
}
