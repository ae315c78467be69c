use super::*;

const UID: &str = "11111111-2222-3333-4444-555555555555";

fn planned(yaml: &str) -> Result<PodPlan, String> {
    let pods: Vec<Pod> = crate::input::yaml_documents(yaml)?;
    let images = BTreeMap::from([(
        "busybox".to_owned(),
        "127.0.0.1:5000/busybox:demo".to_owned(),
    )]);
    plan(&pods[0], UID, Path::new("/logs"), &images)
}

fn with_spec(spec: &str) -> Result<PodPlan, String> {
    planned(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec:\n  {}",
        spec.replace('\n', "\n  ")
    ))
}

fn with_container(fields: &str) -> Result<PodPlan, String> {
    with_spec(&format!(
        "containers:\n- name: a\n  image: x\n  {}",
        fields.replace('\n', "\n  ")
    ))
}

#[test]
fn a_pod_becomes_what_a_kubelet_would_send() {
    let plan = planned(
        r#"
apiVersion: v1
kind: Pod
metadata:
  name: web
  namespace: shop
  labels: {app: web}
  annotations: {why: test}
spec:
  restartPolicy: Always
  shareProcessNamespace: true
  runtimeClassName: runsc
  dnsConfig: {nameservers: [10.0.0.1], options: [{name: ndots, value: "2"}, {name: rotate}]}
  securityContext: {runAsUser: 1000, supplementalGroups: [7]}
  volumes:
  - {name: data, hostPath: {path: /srv/data, type: DirectoryOrCreate}}
  containers:
  - name: server
    image: busybox:1.36
    command: [httpd, -f]
    args: ["-p", "$(PORT)"]
    env: [{name: PORT, value: "8080"}, {name: URL, value: "http://x:$(PORT)/"}]
    ports: [{name: http, containerPort: 8080, hostPort: 80, protocol: TCP}, {containerPort: 9}]
    workingDir: /srv
    resources: {limits: {memory: 32Mi}}
    volumeMounts: [{name: data, mountPath: /srv, readOnly: true, subPath: html}]
    securityContext:
      runAsUser: 0
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}
      seccompProfile: {type: RuntimeDefault}
  - {name: client, image: "other:1", imagePullPolicy: Always}
"#,
    )
    .unwrap();

    let pod = &plan.config;
    assert_eq!(pod.metadata.as_ref().unwrap().namespace, "shop");
    assert_eq!(pod.metadata.as_ref().unwrap().uid, UID);
    assert_eq!(pod.hostname, "web");
    assert_eq!(pod.log_directory, format!("/logs/shop_web_{UID}"));
    assert_eq!(pod.labels["app"], "web");
    assert_eq!(pod.labels[POD_NAMESPACE_LABEL], "shop");
    assert_eq!(
        pod.dns_config.as_ref().unwrap().options,
        ["ndots:2", "rotate"]
    );
    assert_eq!(pod.port_mappings.len(), 1);
    assert_eq!(
        (
            pod.port_mappings[0].host_port,
            pod.port_mappings[0].container_port
        ),
        (80, 8080)
    );
    let sandbox = pod
        .linux
        .as_ref()
        .unwrap()
        .security_context
        .as_ref()
        .unwrap();
    let namespaces = sandbox.namespace_options.as_ref().unwrap();
    assert_eq!(namespaces.network(), v1::NamespaceMode::Pod);
    assert_eq!(namespaces.pid(), v1::NamespaceMode::Pod);
    assert_eq!(plan.handler, "runsc");
    let data = (PathBuf::from("/srv/data"), HostPathKind::DirectoryOrCreate);
    assert_eq!(plan.host_paths, [data]);
    assert_eq!(plan.notes.len(), 1);

    let server = &plan.containers[0].config;
    assert_eq!(
        server.image.as_ref().unwrap().image,
        "127.0.0.1:5000/busybox:demo"
    );
    assert_eq!(server.args, ["-p", "8080"]);
    assert_eq!(server.envs[1].value, b"http://x:8080/");
    assert_eq!(server.log_path, "server/0.log");
    assert_eq!(server.labels[CONTAINER_NAME_LABEL], "server");
    assert_eq!(server.mounts[0].host_path, "/srv/data/html");
    assert!(server.mounts[0].readonly);
    let linux = server.linux.as_ref().unwrap();
    assert_eq!(
        linux.resources.as_ref().unwrap().memory_limit_in_bytes,
        32 << 20
    );
    let security = linux.security_context.as_ref().unwrap();
    assert_eq!(security.run_as_user.unwrap().value, 0);
    assert_eq!(security.supplemental_groups, [7]);
    assert!(security.no_new_privs && security.readonly_rootfs && !security.privileged);
    assert!(security.masked_paths.contains(&"/proc/kcore".to_owned()));
    assert_eq!(
        security.capabilities.as_ref().unwrap().drop_capabilities,
        ["ALL"]
    );

    let client = &plan.containers[1];
    assert_eq!(client.config.image.as_ref().unwrap().image, "other:1");
    assert_eq!(client.pull, PullPolicy::Always);
    let security = client
        .config
        .linux
        .as_ref()
        .unwrap()
        .security_context
        .as_ref()
        .unwrap();
    assert_eq!(security.run_as_user.unwrap().value, 1000);
}

#[test]
fn the_hosts_network_needs_no_mappings_and_no_hostname() {
    let plan = with_spec(
        "hostNetwork: true\ncontainers:\n- {name: a, image: x, ports: [{containerPort: 80, hostPort: 80}]}",
    )
    .unwrap();
    assert!(plan.config.port_mappings.is_empty());
    assert_eq!(plan.config.hostname, "");
    let error = with_spec(
        "hostNetwork: true\ncontainers:\n- {name: a, image: x, ports: [{containerPort: 80, hostPort: 81}]}",
    );
    assert!(
        error
            .unwrap_err()
            .starts_with("spec.containers[0].ports[0].hostPort: ")
    );
}

#[test]
fn refusals_name_the_field() {
    for (result, text) in [
        (
            with_spec("containers: []"),
            "spec.containers: a pod has at least one",
        ),
        (
            with_spec("containers:\n- {name: a, image: x}\n- {name: a, image: x}"),
            "spec.containers[1].name: \"a\" is there twice",
        ),
        (
            with_spec("containers:\n- {name: ../a, image: x}"),
            "spec.containers[0].name: \"../a\" is not a name (letters, digits, -, . and _)",
        ),
        (
            with_spec("containers:\n- {name: a, image: ''}"),
            "spec.containers[0].image: is empty",
        ),
        (
            with_container("volumeMounts: [{name: v, mountPath: /v}]"),
            "spec.containers[0].volumeMounts[0].name: there is no volume \"v\"",
        ),
        (
            with_spec(
                "volumes: [{name: v, hostPath: {path: /v}}]\ncontainers:\n\
                 - {name: a, image: x, volumeMounts: [{name: v, mountPath: /v, subPath: ../etc}]}",
            ),
            "spec.containers[0].volumeMounts[0].subPath: \"../etc\" leaves the volume",
        ),
        (
            with_spec(
                "volumes: [{name: v, hostPath: {path: a/b}}]\ncontainers: [{name: a, image: x}]",
            ),
            "spec.volumes[0].hostPath.path: \"a/b\" is not an absolute path without ..",
        ),
        (
            with_container("securityContext: {runAsNonRoot: true}"),
            "spec.containers[0].securityContext.runAsNonRoot: needs a runAsUser other than 0",
        ),
        (
            with_container("securityContext: {runAsUser: -1}"),
            "spec.containers[0].securityContext.runAsUser: out of range",
        ),
        (
            with_container("securityContext: {seccompProfile: {type: Localhost}}"),
            "spec.containers[0].securityContext.seccompProfile: Localhost needs localhostProfile",
        ),
        (
            with_container("securityContext: {privileged: true, allowPrivilegeEscalation: false}"),
            "spec.containers[0].securityContext.allowPrivilegeEscalation: cannot be false for a privileged container",
        ),
    ] {
        assert_eq!(result.unwrap_err(), text);
    }
}

#[test]
fn fields_that_are_not_honoured_are_refused_by_name() {
    for (result, field) in [
        (with_container("livenessProbe: {}"), "livenessProbe"),
        (with_container("envFrom: []"), "envFrom"),
        (
            with_container("env: [{name: A, valueFrom: {}}]"),
            "valueFrom",
        ),
        (
            with_spec("initContainers: []\ncontainers: []"),
            "initContainers",
        ),
        (
            with_spec("volumes: [{name: v, emptyDir: {}}]\ncontainers: []"),
            "emptyDir",
        ),
        (
            with_container("resources: {limits: {nvidia.com/gpu: 1}}"),
            "nvidia.com/gpu",
        ),
    ] {
        let text = result.unwrap_err();
        assert!(text.contains(field), "{text}");
        assert!(!text.contains('\n'), "{text}");
    }
    let pods: Vec<Pod> = crate::input::yaml_documents(
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {containers: []}",
    )
    .unwrap();
    assert_eq!(
        pods[0].check_kind().unwrap_err(),
        "v1 Service is not supported, only v1 Pod is"
    );
}

#[test]
fn images_are_replaced_with_or_without_their_tag() {
    let images = BTreeMap::from([
        ("busybox".to_owned(), "a".to_owned()),
        ("reg:5000/x:1".to_owned(), "b".to_owned()),
    ]);
    for (name, used) in [
        ("busybox", "a"),
        ("busybox:1.36", "a"),
        ("reg:5000/x:1", "b"),
        ("reg:5000/x:2", "reg:5000/x:2"),
        ("docker.io/library/busybox:latest", "a"),
        ("reg:5000/busybox", "reg:5000/busybox"),
    ] {
        assert_eq!(image(name, &images), used);
    }
}
