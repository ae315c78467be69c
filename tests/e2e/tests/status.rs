//! What the runtime says of itself.

use std::os::unix::fs::PermissionsExt;

use e2e::{PodSettings, scenario};

#[test]
fn version_and_status_are_honest() {
    scenario(async |host| {
        let version = host.cri.version().await?;
        assert_eq!(version.runtime_name, "longshore");
        assert_eq!(version.runtime_api_version, "v1");

        let status = host.cri.status(true).await?;
        let conditions = status.status.clone().unwrap().conditions;
        for name in ["RuntimeReady", "NetworkReady"] {
            let condition = conditions
                .iter()
                .find(|condition| condition.r#type == name)
                .unwrap();
            assert!(condition.status, "{condition:?}");
        }
        assert!(
            status
                .runtime_handlers
                .iter()
                .any(|handler| handler.name.is_empty())
        );
        let features = status.features.unwrap();
        assert!(features.supplemental_groups_policy && features.mount_options);
        assert!(features.user_namespaces_host_network);
        assert!(!status.info.is_empty());
        Ok(())
    });
}

#[test]
fn the_socket_is_for_root_and_its_group() {
    scenario(async |host| {
        let mode = std::fs::metadata(host.daemon.socket())?
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o660);
        Ok(())
    });
}

#[test]
fn v1alpha2_is_the_same_service() {
    scenario(async |host| {
        for (path, version) in [
            ("/runtime.v1.RuntimeService/Version", "v1"),
            ("/runtime.v1alpha2.RuntimeService/Version", "v1alpha2"),
        ] {
            for content_type in ["application/grpc", "application/grpc+proto"] {
                let request = cri::v1::VersionRequest::default();
                let reply: cri::v1::VersionResponse =
                    e2e::call_path(host.daemon.socket(), path, content_type, request).await?;
                assert_eq!(reply.runtime_name, "longshore");
                assert_eq!(reply.runtime_api_version, version);
            }
        }
        Ok(())
    });
}

#[test]
fn requests_may_be_large() {
    scenario(async |host| {
        // More than gRPC's own 4 MiB, less than our 16.
        let pod = PodSettings::edited("large", |config| {
            config
                .annotations
                .insert("large".into(), "x".repeat(6 << 20));
        });
        let id = host.run_pod(&pod).await?;
        let status = host.cri.pod_status(&id, false).await?.status.unwrap();
        assert_eq!(status.annotations["large"].len(), 6 << 20);
        Ok(())
    });
}

#[test]
fn a_foreign_firewall_that_drops_is_reported() {
    scenario(async |host| {
        host.sandbox.sh(
            "nft add table inet other
             nft add chain inet other forward '{ type filter hook forward priority 0; policy drop; }'",
        )?;
        // It is looked for when a daemon sets up its network.
        host.restart_daemon().await?;
        host.run_pod(&PodSettings::new("blocked")).await?;
        let conditions = host.cri.status(false).await?.status.unwrap().conditions;
        let said = conditions
            .iter()
            .any(|condition| condition.message.contains("other"));
        assert!(said, "{conditions:?}");
        host.sandbox.sh("nft delete table inet other")?;
        Ok(())
    });
}
