//! Network namespaces, and small servers and clients inside them.

#![allow(dead_code)] // each test binary uses a part

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const BOUND: Duration = Duration::from_secs(5);
/// For what should not be answered.
const SHORT: Duration = Duration::from_millis(300);
const PAUSE: Duration = Duration::from_millis(5);

/// A network namespace that lives as long as this.
pub(crate) struct Net {
    namespace: OwnedFd,
}

impl Net {
    pub(crate) fn new() -> Net {
        let thread = std::thread::spawn(|| {
            sys::unshare(sys::CloneFlags::NEWNET).unwrap();
            OwnedFd::from(File::open("/proc/thread-self/ns/net").unwrap())
        });
        Net {
            namespace: thread.join().unwrap(),
        }
    }

    pub(crate) fn descriptor(&self) -> OwnedFd {
        self.namespace.try_clone().unwrap()
    }

    /// Runs `work` on a thread in the namespace; processes and threads that it starts are there, too.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let entered = || {
                let kind = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(self.namespace.as_fd(), kind).unwrap();
                work()
            };
            match scope.spawn(entered).join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Runs a future on a runtime of its own, all of it in the namespace.
    pub(crate) fn block_on<T: Send>(&self, future: impl Future<Output = T> + Send) -> T {
        self.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(future)
        })
    }

    /// Standard output of a shell script that must succeed.
    pub(crate) fn sh(&self, script: &str) -> String {
        let output = self.run(|| Command::new("sh").args(["-ec", script]).output().unwrap());
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Names this namespace for `ip link … netns`.
    pub(crate) fn path(&self) -> String {
        format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            self.namespace.as_raw_fd()
        )
    }

    /// A TCP and a UDP server on one port of all addresses. They answer with their name and the address of who asks.
    pub(crate) fn serve(&self, name: &str, port: u16) -> Server {
        let stop = Arc::new(AtomicBool::new(false));
        let (tcp, udp) = self.run(|| {
            let all = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
            (
                TcpListener::bind(all).unwrap(),
                UdpSocket::bind(all).unwrap(),
            )
        });
        tcp.set_nonblocking(true).unwrap();
        udp.set_nonblocking(true).unwrap();
        let (name, stopped) = (name.to_owned(), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((mut stream, peer)) = tcp.accept() {
                    let _ = write!(stream, "{name} {}", peer.ip().to_canonical());
                    continue;
                }
                let mut question = [0; 16];
                if let Ok((_, peer)) = udp.recv_from(&mut question) {
                    let answer = format!("{name} {}", peer.ip().to_canonical());
                    let _ = udp.send_to(answer.as_bytes(), peer);
                    continue;
                }
                std::thread::sleep(PAUSE);
            }
        });
        Server {
            stop,
            thread: Some(thread),
        }
    }

    /// What a server answers by TCP and by UDP, which must be the same.
    #[track_caller]
    pub(crate) fn ask(&self, address: &str, port: u16) -> String {
        let tcp = self.ask_tcp(address, port, BOUND);
        let tcp = tcp.unwrap_or_else(|error| panic!("TCP {address} port {port}: {error}"));
        let udp = self.ask_udp(address, port, BOUND);
        let udp = udp.unwrap_or_else(|error| panic!("UDP {address} port {port}: {error}"));
        assert_eq!(tcp, udp, "{address} port {port}");
        tcp
    }

    /// A client of one address.
    pub(crate) fn udp_client(&self, address: &str) -> UdpClient {
        let address: SocketAddr = address.parse().unwrap();
        self.run(|| {
            let any = match address {
                SocketAddr::V4(_) => "0.0.0.0:0",
                SocketAddr::V6(_) => "[::]:0",
            };
            let socket = UdpSocket::bind(any).unwrap();
            socket.connect(address).unwrap();
            socket.set_read_timeout(Some(SHORT)).unwrap();
            UdpClient(socket)
        })
    }

    /// For mappings of TCP alone.
    #[track_caller]
    pub(crate) fn ask_by_tcp(&self, address: &str, port: u16) -> String {
        let answer = self.ask_tcp(address, port, BOUND);
        answer.unwrap_or_else(|error| panic!("TCP {address} port {port}: {error}"))
    }

    /// That nobody answers, by TCP or by UDP.
    #[track_caller]
    pub(crate) fn ask_in_vain(&self, address: &str, port: u16) {
        let tcp = self.ask_tcp(address, port, SHORT);
        assert!(tcp.is_err(), "TCP {address} port {port}: {tcp:?}");
        let udp = self.ask_udp(address, port, SHORT);
        assert!(udp.is_err(), "UDP {address} port {port}: {udp:?}");
    }

    fn ask_tcp(&self, address: &str, port: u16, bound: Duration) -> io::Result<String> {
        let address = SocketAddr::new(address.parse::<IpAddr>().unwrap(), port);
        self.run(|| {
            let mut stream = TcpStream::connect_timeout(&address, bound)?;
            stream.set_read_timeout(Some(bound))?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        })
    }

    fn ask_udp(&self, address: &str, port: u16, bound: Duration) -> io::Result<String> {
        let address = SocketAddr::new(address.parse::<IpAddr>().unwrap(), port);
        self.run(|| {
            let any = match address {
                SocketAddr::V4(_) => "0.0.0.0:0",
                SocketAddr::V6(_) => "[::]:0",
            };
            let socket = UdpSocket::bind(any)?;
            socket.connect(address)?;
            socket.set_read_timeout(Some(bound))?;
            socket.send(b"?")?;
            let mut answer = [0; 128];
            let length = socket.recv(&mut answer)?;
            Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
        })
    }
}

/// A client that keeps its port.
pub(crate) struct UdpClient(UdpSocket);

impl UdpClient {
    /// An answer may come late, to a question that was asked before; those are gone after a while.
    pub(crate) fn ask(&self) -> io::Result<String> {
        let mut last = Err(io::ErrorKind::TimedOut.into());
        for _ in 0..3 {
            let mut answer = [0; 128];
            last = self
                .0
                .send(b"?")
                .and_then(|_| self.0.recv(&mut answer))
                .map(|length| String::from_utf8_lossy(&answer[..length]).into_owned());
            if last.is_ok() {
                break;
            }
        }
        last
    }
}

/// Serves until dropped.
pub(crate) struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A node that is connected to an outside: 192.0.2.1 and 2001:db8::1 to .2 and ::2, where nobody has a route to the pods.
pub(crate) struct Site {
    pub(crate) node: Net,
    pub(crate) outside: Net,
    pub(crate) state: tempfile::TempDir,
}

impl Site {
    pub(crate) fn new() -> Site {
        let (node, outside) = (Net::new(), Net::new());
        node.sh(&format!(
            "ip link set lo up
             ip link add up0 type veth peer name eth0 netns {}
             ip addr add 192.0.2.1/24 dev up0
             ip addr add 2001:db8::1/64 dev up0 nodad
             ip link set up0 up",
            outside.path()
        ));
        outside.sh("ip link set lo up
             ip addr add 192.0.2.2/24 dev eth0
             ip addr add 2001:db8::2/64 dev eth0 nodad
             ip link set eth0 up");
        Site {
            node,
            outside,
            state: tempfile::TempDir::new().unwrap(),
        }
    }

    /// Links of pods, elements of maps and records: empty when no pod is there.
    pub(crate) fn remains(&self) -> String {
        let links = self
            .node
            .sh("ip -o link | grep -o 'lsv[0-9a-f]*' | sort -u || true");
        let elements = self
            .node
            .sh("nft list ruleset | grep -A9 'elements' || true");
        let records: Vec<String> = std::fs::read_dir(self.state.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        format!("{links}{elements}{}", records.join(" "))
    }
}
