//! Debian's docker-registry.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A registry process, ended when dropped.
pub struct DockerRegistry {
    process: Child,
    pub address: String,
}

impl DockerRegistry {
    /// One that listens on the loopback of a network that is the calling thread's own from here on, and of all that it starts; `extra` is what follows
    /// the address in its configuration.
    pub fn start(directory: &Path, extra: &str) -> Self {
        own_network();
        let address = "127.0.0.1:5000".to_owned();
        let config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{address}'{extra}}}\n",
            directory.join("data").display()
        );
        let path = directory.join("config.yml");
        fs::write(&path, config).unwrap();
        let mut process = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let up = lines.any(|line| line.is_ok_and(|line| line.contains("listening on")));
        assert!(up, "docker-registry does not start");
        // So that it is never stopped by a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, address }
    }
}

/// Takes the calling thread to a network namespace of its own; threads and processes inherit it.
fn own_network() {
    // It is deprecated for the sake of UnshareFlags::FILES.
    #[allow(deprecated)]
    rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET).unwrap();
    super::run("ip", &["link", "set", "lo", "up"]);
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
