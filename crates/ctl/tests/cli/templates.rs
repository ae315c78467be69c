use crate::Bench;
use crate::fake::{CLIENT, SERVER, WEB_POD};

#[test]
fn one_thing_is_shown_by_a_template() {
    let bench = Bench::start();
    let shown = |command: &[&str], template: &str| {
        let mut arguments = command.to_vec();
        arguments.extend(["-o", "go-template", "--template", template]);
        bench.output(&arguments)
    };
    let status = "{{.status.id}} {{.status.metadata.name}} {{.info.pid}}";
    assert_eq!(
        shown(&["inspect", "client"], status),
        format!("{CLIENT} client 7\n")
    );
    assert_eq!(
        shown(
            &["inspect", CLIENT, SERVER],
            "{{range .}}{{.status.id}} {{end}}"
        ),
        format!("{CLIENT} {SERVER} \n")
    );
    assert_eq!(
        shown(&["inspectp", "web"], "{{.status.id}}"),
        format!("{WEB_POD}\n")
    );
    let conditions = "{{range .status.conditions}}{{.type}}={{.status}};{{end}}";
    assert!(shown(&["info"], conditions).contains("RuntimeReady=true;"));
}

#[test]
fn templates_are_refused_before_anything_is_asked() {
    let bench = Bench::start();
    for wrong in [
        &["inspect", "client", "-o", "go-template"][..],
        &["inspect", "client", "--template", "{{.status}}"],
        &[
            "inspect",
            "client",
            "-o",
            "go-template",
            "--template",
            "{{.status",
        ],
        &["ps", "-o", "go-template"],
    ] {
        assert_eq!(bench.run(wrong).code, 2, "{wrong:?}");
    }
    let missing = bench.run(&[
        "inspect",
        "client",
        "-o",
        "go-template",
        "--template",
        "{{.x}}",
    ]);
    assert_eq!(missing.code, 1);
    assert!(
        missing.stderr.starts_with("longshore: --template: "),
        "{}",
        missing.stderr
    );
}
