//! Debian's docker-registry.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A registry process, ended when dropped.
pub struct DockerRegistry {
    process: Child,
    pub address: String,
}

impl DockerRegistry {
    /// One that listens on the loopback; `extra` is what follows the address in its configuration.
    pub fn start(directory: &Path, extra: &str) -> Self {
        // The port is free now; should somebody take it, the registry says so and another is tried.
        for _ in 0..20 {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap().to_string();
            drop(listener);
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
            // So that it is never stopped by a full pipe.
            std::thread::spawn(move || lines.for_each(drop));
            if up {
                return Self { process, address };
            }
            process.kill().ok();
            process.wait().unwrap();
        }
        panic!("docker-registry does not start");
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
