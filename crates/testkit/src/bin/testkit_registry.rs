//! `testkit-registry [ADDRESS:PORT [REPOSITORY:TAG ...]]`: the test-kit's registry as a process. It serves Debian's busybox under each
//! name, prints its address, and runs until its standard input ends.

use std::{
    io::{self, Read, Write},
    net::TcpListener,
};

use anyhow::Context;
use testkit::{image, registry::Registry};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:0".into());
    let listener = TcpListener::bind(&address).with_context(|| format!("listen on {address}"))?;
    let registry = Registry::serve(listener)?;
    let busybox = image::busybox()?.build();
    for name in arguments {
        let (repository, tag) = name.rsplit_once(':').unwrap_or((&name, "latest"));
        registry.push(repository, tag, &busybox);
    }
    let mut out = io::stdout();
    writeln!(out, "{}", registry.address())?;
    out.flush()?;
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
