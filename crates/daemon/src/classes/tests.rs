use serde_json::json;

use super::*;

/// A node with the files that its kernel and its owner would make.
struct Node {
    root: tempfile::TempDir,
    classes: Classes,
}

impl Node {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().to_owned();
        let node = Self {
            root,
            classes: Classes {
                block_io: Some(path.join("blockio.yaml")),
                rdt: Some(path.join("rdt.yaml")),
                devices: path.clone(),
                resctrl: path.join("resctrl"),
            },
        };
        node.put(
            "resctrl/schemata",
            "    MB:0=100;1=100\n    L3:0=fffff;1=fffff\n",
        );
        node.put("resctrl/info/L3/cbm_mask", "fffff\n");
        node.put("resctrl/info/L3/min_cbm_bits", "2\n");
        node.put("resctrl/info/MB/min_bandwidth", "10\n");
        node
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.root.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// A block device that is there on every Linux machine, or may be: numbers are all that counts.
    fn device(&self, name: &str, minor: u32) {
        let path = self.root.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mode = rustix::fs::Mode::RUSR;
        let number = rustix::fs::makedev(251, minor);
        let kind = rustix::fs::FileType::BlockDevice;
        rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, number).unwrap();
    }

    fn error(&self, text: &str, class: &str) -> String {
        self.put("blockio.yaml", text);
        self.classes.block_io(class).unwrap_err().to_string()
    }

    /// What the kernel is told of a class.
    fn schemata(&self, class: &str) -> Result<String, String> {
        // The kernel makes the files of a group; here they are made before.
        let path = format!("resctrl/{class}/schemata");
        self.put(&path, "");
        let asked = self.classes.rdt(class, Asker::Plugin);
        let asked = asked.map_err(|error| error.to_string())?;
        assert_eq!(asked.clos_id().as_deref(), Some(class));
        Ok(std::fs::read_to_string(self.root.path().join(path)).unwrap())
    }
}

const BLOCK_IO: &str = "
Classes:
  slow:
    - Weight: 80
    - Devices: [/dev/sd*, /dev/vda]
      ThrottleReadBps: 50M
      ThrottleWriteIOPS: 5k
      Weight: 50
    - Devices: [/dev/disk/by-id/*SSD*]
      ThrottleReadBps: '100M'
  plain: []
";

#[test]
fn a_class_of_block_io_has_the_numbers_of_the_nodes_devices() {
    let node = Node::new();
    node.put("blockio.yaml", BLOCK_IO);
    node.device("dev/sda", 1);
    node.device("dev/sdb", 2);
    node.put(
        "dev/sdx",
        "no device, and a pattern may catch more than was meant",
    );
    std::fs::create_dir_all(node.root.path().join("dev/disk/by-id")).unwrap();
    std::os::unix::fs::symlink("../../sdb", node.root.path().join("dev/disk/by-id/SSD-1")).unwrap();
    let class = node.classes.block_io("slow").unwrap();
    let expected = json!({
        "weight": 80,
        "weightDevice": [
            {"major": 251, "minor": 1, "weight": 50}, {"major": 251, "minor": 2, "weight": 50}
        ],
        "throttleReadBpsDevice": [
            {"major": 251, "minor": 1, "rate": 50_000_000}, {"major": 251, "minor": 2, "rate": 100_000_000}
        ],
        "throttleWriteIOPSDevice": [
            {"major": 251, "minor": 1, "rate": 5000}, {"major": 251, "minor": 2, "rate": 5000}
        ],
    });
    assert_eq!(serde_json::to_value(&class).unwrap(), expected);
    let plain = node.classes.block_io("plain").unwrap();
    assert_eq!(serde_json::to_value(&plain).unwrap(), json!({}));
}

#[test]
fn a_wrong_file_of_block_io_says_where() {
    let node = Node::new();
    for (text, words) in [
        (BLOCK_IO, "does not define it; it has plain, slow"),
        (
            "Classes: {gold: [{Weight: 5}]}",
            "Classes.gold[0].Weight: \"5\": use 10 to 1000",
        ),
        (
            "Classes: {gold: [{ThrottleReadBps: 1M}]}",
            "Classes.gold[0].Devices: \"\": rates are of devices: list them",
        ),
        (
            "Classes: {gold: [{Devices: [/dev/x], ThrottleReadBps: fast}]}",
            "Classes.gold[0].ThrottleReadBps: \"fast\": write a number such as 10k or 50M",
        ),
        (
            "Classes: {gold: [{Devices: ['/dev/[']}]}",
            "the pattern is broken",
        ),
        (
            "Classes: {gold: [{Devices: [/blockio.yaml]}]}",
            "it is no block device",
        ),
        ("Classes: {gold: [{Speed: 1}]}", "Speed"),
    ] {
        let error = node.error(text, "gold");
        assert!(error.contains(words), "{text}: {error}");
    }
    let undefined = Classes {
        block_io: None,
        ..node.classes.clone()
    };
    let error = undefined.block_io("gold").unwrap_err().to_string();
    assert!(error.contains("set classes.block_io"), "{error}");
}

const RDT: &str = "
options: {l2: {optional: true}}
partitions:
  exclusive:
    l2Allocation: '80%'
    l3Allocation: '60%'
    mbAllocation: ['100%']
    classes:
      guaranteed:
  shared:
    l2Allocation: '20%'
    l3Allocation: {all: '40%'}
    mbAllocation: {all: ['80%', 1000MBps], '1': ['40%']}
    classes:
      burstable:
        kubernetes: {denyPodAnnotation: true}
      besteffort:
        l3Allocation: {all: {unified: '50%', code: '50%', data: '50%'}, '1': '0x3'}
        mbAllocation: ['50%']
        kubernetes: {denyContainerAnnotation: true}
      least:
        l3Allocation: '50-50%'
        mbAllocation: ['1%']
";

#[test]
fn a_class_of_rdt_is_a_group_with_its_shares() {
    let node = Node::new();
    node.put("rdt.yaml", RDT);
    for (class, lines) in [
        ("guaranteed", "L3:0=fff;1=fff\nMB:0=100;1=100\n"),
        ("burstable", "L3:0=ff000;1=ff000\nMB:0=80;1=40\n"),
        ("besteffort", "L3:0=f000;1=3000\nMB:0=40;1=20\n"),
        ("least", "L3:0=c000;1=c000\nMB:0=10;1=10\n"),
    ] {
        assert_eq!(node.schemata(class).as_deref(), Ok(lines), "{class}");
    }
    // One that has its shares is left alone.
    let path = "resctrl/least/schemata";
    let padded = "MB:0= 10;1= 10\nL3:0=0c000;1=0c000\n";
    node.put(path, padded);
    node.classes.rdt("least", Asker::Pod).unwrap();
    let text = std::fs::read_to_string(node.root.path().join(path)).unwrap();
    assert_eq!(text, padded);

    let denied = [
        ("burstable", Asker::Pod, "pods"),
        ("besteffort", Asker::Container, "containers"),
    ];
    for (class, asker, words) in denied {
        let error = node.classes.rdt(class, asker).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn code_and_data_may_have_shares_of_their_own() {
    let node = Node::new();
    node.put("resctrl/schemata", "L3CODE:0=ff\nL3DATA:0=ff\n");
    for kind in ["L3CODE", "L3DATA"] {
        node.put(&format!("resctrl/info/{kind}/cbm_mask"), "ff\n");
        node.put(&format!("resctrl/info/{kind}/min_cbm_bits"), "1\n");
    }
    node.put(
        "rdt.yaml",
        "partitions: {all: {l3Allocation: '100%', classes: {split: {l3Allocation: {all: {unified: '100%', code: '0xf', data: '4-7'}}}}}}",
    );
    assert_eq!(
        node.schemata("split").as_deref(),
        Ok("L3CODE:0=f\nL3DATA:0=f0\n")
    );
}

#[test]
fn a_wrong_file_of_rdt_says_where() {
    let node = Node::new();
    let with = |l3: &str| {
        format!(
            "partitions: {{a: {{l3Allocation: {l3}, classes: {{gold: }}}}, b: {{l3Allocation: '60%'}}}}"
        )
    };
    for (text, words) in [
        (with("'60%'"), "120% together"),
        (with("'0xff'"), "some have percents and some masks"),
        (with("'much'"), "\"much\" is no share"),
        (with("'0x5'"), "not one block"),
        (with("'1-3,7'"), "not one block"),
        (with("'120%'"), "\"120%\" is no share"),
        (with("'2-10%'"), "a range is for classes"),
        (
            "partitions: {a: {classes: {gold: }}, b: {l3Allocation: '60%', classes: {tin: }}}"
                .to_owned(),
            "",
        ),
        (
            "partitions: {a: {classes: {gold: {l3Allocation: '60%'}}}}".to_owned(),
            "partitions.a.l3Allocation",
        ),
        (
            "partitions: {a: {l2Allocation: '60%', classes: {gold: }}}".to_owned(),
            "this node cannot divide that cache",
        ),
        (
            "partitions: {a: {mbAllocation: [1000MBps], classes: {gold: }}}".to_owned(),
            "this node divides by %",
        ),
        (
            "partitions: {a: {classes: {tin: }}}".to_owned(),
            "it has tin",
        ),
        (
            "partitions: {a: {classes: {gold: {l4: 1}}}}".to_owned(),
            "l4",
        ),
    ] {
        node.put("rdt.yaml", &text);
        match (node.schemata("gold"), words) {
            (Ok(lines), "") => assert_eq!(lines, ""),
            (Err(error), words) => assert!(error.contains(words), "{text}: {error}"),
            (Ok(lines), words) => panic!("{text}: {lines:?}, not {words}"),
        }
    }
    node.put("rdt.yaml", "partitions: {a: {classes: {..: , info: }}}");
    for class in ["..", "info"] {
        let error = node.classes.rdt(class, Asker::Plugin).unwrap_err();
        assert!(error.to_string().contains("cannot name"), "{error}");
    }
    let nowhere = Classes {
        resctrl: node.root.path().join("absent"),
        ..node.classes.clone()
    };
    let error = nowhere.rdt("gold", Asker::Pod).unwrap_err().to_string();
    assert!(error.contains("no resctrl file system"), "{error}");
}
