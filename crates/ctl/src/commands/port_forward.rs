use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use clap::Args;
use streaming::client::{self, Forwarder};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::error::{self, Error};
use crate::ids;
use crate::output::Output;
use crate::session::Session;
use crate::streams::{Transport, failed};

/// Forward local ports to a pod, until interrupted
#[derive(Debug, Args)]
pub(crate) struct PortForward {
    #[arg(value_name = "POD-ID")]
    id: String,
    /// Without a local port it is the same; an empty one is any that is free
    #[arg(value_name = "[LOCAL_PORT:]REMOTE_PORT", required = true, value_parser = Ports::parse)]
    ports: Vec<Ports>,
    #[command(flatten)]
    transport: Transport,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ports {
    /// 0 is any.
    local: u16,
    remote: u16,
}

impl Ports {
    fn parse(text: &str) -> Result<Self, String> {
        let (local, remote) = text.split_once(':').unwrap_or((text, text));
        let port = |text: &str| {
            let number = text.parse::<u16>().ok();
            number.ok_or_else(|| format!("{text:?} is not a port: use 1 to 65535"))
        };
        let remote = match port(remote)? {
            0 => return Err("0 is not a port of a pod: use 1 to 65535".to_owned()),
            remote => remote,
        };
        let local = if local.is_empty() { 0 } else { port(local)? };
        Ok(Self { local, remote })
    }
}

/// A local socket that has been opened.
#[derive(Debug)]
struct Listening {
    socket: TcpListener,
    address: SocketAddr,
    remote: u16,
}

impl PortForward {
    pub(crate) async fn run(self, session: &Session, out: &mut Output) -> Result<(), Error> {
        let id = ids::pod(session, &self.id).await?;
        let operation = format!("forward ports of pod {id}");
        let url = session.port_forward_url(&id).await?;
        let forwarder = client::port_forward(&url, &self.transport.options()?)
            .await
            .map_err(failed(&operation))?;
        let forwarder = Arc::new(forwarder);
        let mut accepting = JoinSet::new();
        for ports in self.ports {
            for listening in listen(ports).await? {
                writeln!(
                    out,
                    "Forwarding from {} -> {}",
                    listening.address, listening.remote
                )?;
                accepting.spawn(accept(listening, Arc::clone(&forwarder)));
            }
        }
        out.flush()?;
        tokio::select! {
            () = forwarder.closed() => Err(Error::Refused(format!("{operation}: lost the connection to the runtime"))),
            _ = tokio::signal::ctrl_c() => Ok(()),
        }
    }
}

/// On both loopbacks, where there are both.
async fn listen(ports: Ports) -> Result<Vec<Listening>, Error> {
    let at = async |address: IpAddr, port: u16| {
        let socket = TcpListener::bind((address, port)).await?;
        let address = socket.local_addr()?;
        io::Result::Ok(Listening {
            socket,
            address,
            remote: ports.remote,
        })
    };
    let first = at(Ipv4Addr::LOCALHOST.into(), ports.local).await;
    let port = first.as_ref().map_or(ports.local, |one| one.address.port());
    let second = at(Ipv6Addr::LOCALHOST.into(), port).await;
    match (first, second) {
        (Ok(first), Ok(second)) => Ok(vec![first, second]),
        (Ok(one), Err(_)) | (Err(_), Ok(one)) => Ok(vec![one]),
        (Err(source), Err(_)) => Err(Error::Io {
            what: format!("listen on local port {}", ports.local),
            source,
        }),
    }
}

async fn accept(listening: Listening, forwarder: Arc<Forwarder>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listening.socket.accept() => match accepted {
                Ok((local, _)) => {
                    let (address, remote) = (listening.address, listening.remote);
                    let forwarder = Arc::clone(&forwarder);
                    error::note(&format!("Handling connection for {}", address.port()));
                    connections.spawn(async move {
                        if let Err(words) = carry(local, &forwarder, remote).await {
                            error::note(&format!("an error occurred forwarding {} -> {remote}: {words}", address.port()));
                        }
                    });
                }
                Err(error) => {
                    error::note(&format!("accept on {}: {error}", listening.address));
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            },
            Some(_ended) = connections.join_next() => {}
        }
    }
}

async fn carry(mut local: TcpStream, forwarder: &Forwarder, remote: u16) -> Result<(), String> {
    let mut forwarded = forwarder
        .connect(remote)
        .map_err(|error| error.to_string())?;
    let carried = tokio::io::copy_bidirectional(&mut local, &mut forwarded.stream).await;
    match forwarded.failure().await {
        Ok(Some(words)) => Err(words),
        Ok(None) => match carried {
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        },
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_crictl_reads_them() {
        let parsed = |text| Ports::parse(text).map(|ports| (ports.local, ports.remote));
        assert_eq!(parsed("80"), Ok((80, 80)));
        assert_eq!(parsed("8080:80"), Ok((8080, 80)));
        assert_eq!(parsed(":80"), Ok((0, 80)));
        for wrong in ["", ":", "80:", "0", "8080:0", "65536", "x:80", "1:2:3"] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }
}
