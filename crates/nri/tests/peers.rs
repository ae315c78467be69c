//! Two peers over a real socket.

use std::time::Duration;

use nri::{Call, CallError, Code, PLUGIN, Peer, RUNTIME, Side, api};
use prost::Message;
use tokio::{io::AsyncWriteExt, net::UnixStream, sync::mpsc};

const LONG: Duration = Duration::from_secs(30);

fn pair() -> (Peer, mpsc::Receiver<Call>, Peer, mpsc::Receiver<Call>) {
    let (a, b) = UnixStream::pair().expect("a pair of sockets");
    let (to_runtime, runtime_calls) = mpsc::channel(8);
    let (to_plugin, plugin_calls) = mpsc::channel(8);
    let runtime = Peer::start(a, Side::Runtime, to_runtime);
    let plugin = Peer::start(b, Side::Plugin, to_plugin);
    (runtime, runtime_calls, plugin, plugin_calls)
}

#[tokio::test]
async fn both_ends_call_each_other_at_once() {
    let (runtime, mut runtime_calls, plugin, mut plugin_calls) = pair();
    let server = tokio::spawn(async move {
        let call = plugin_calls.recv().await.unwrap();
        assert_eq!(
            (call.service.as_str(), call.method.as_str()),
            (PLUGIN, "Configure")
        );
        let request = api::ConfigureRequest::decode(call.payload.as_slice()).unwrap();
        // While it is asked, it asks.
        let register = api::RegisterPluginRequest::default();
        let refused = plugin.call::<api::Empty>(RUNTIME, "RegisterPlugin", &register, LONG);
        let refused = refused.await.unwrap_err();
        assert!(matches!(
            refused,
            CallError::Refused {
                code: Code::INVALID_ARGUMENT,
                ..
            }
        ));
        call.reply.ok(&api::ConfigureResponse {
            events: i32::try_from(request.config.len()).unwrap(),
        });
        plugin
    });
    let refuser = tokio::spawn(async move {
        let call = runtime_calls.recv().await.unwrap();
        call.reply.refuse(Code::INVALID_ARGUMENT, "no name");
        runtime_calls
    });
    let request = api::ConfigureRequest {
        config: "x".repeat(3 << 20),
        ..Default::default()
    };
    let answer: api::ConfigureResponse = runtime
        .call(PLUGIN, "Configure", &request, LONG)
        .await
        .unwrap();
    assert_eq!(answer.events, 3 << 20);
    let plugin = server.await.unwrap();
    refuser.await.unwrap();
    drop(plugin);
    assert_eq!(runtime.ended().await, "the connection was closed");
    let error = runtime
        .call::<api::Empty>(PLUGIN, "Shutdown", &api::Empty {}, LONG)
        .await;
    assert!(matches!(error, Err(CallError::Closed(_))));
}

#[tokio::test]
async fn what_is_too_long_slow_or_mad_is_told() {
    let (runtime, _runtime_calls, _plugin, mut plugin_calls) = pair();
    let request = api::ConfigureRequest {
        config: "x".repeat(nri::MESSAGE_BYTES),
        ..Default::default()
    };
    let error = runtime
        .call::<api::Empty>(PLUGIN, "Configure", &request, LONG)
        .await;
    assert_eq!(error.unwrap_err(), CallError::Long);
    let short = Duration::from_millis(50);
    let error = runtime
        .call::<api::Empty>(PLUGIN, "Shutdown", &api::Empty {}, short)
        .await;
    assert_eq!(error.unwrap_err(), CallError::Timeout(short));
    // Its answer is nobody's by now.
    plugin_calls.recv().await.unwrap().reply.ok(&api::Empty {});

    for garbage in [
        &[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff][..],
        &[0, 0, 0, 2, 0, 0, 0, 11, 0, 0, 0, 1, 0, 0, 0, 1, 1, 0, 0xff],
        &[0, 0, 0, 1, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 1, 9, 0],
    ] {
        let (a, mut b) = UnixStream::pair().unwrap();
        let (calls, _kept) = mpsc::channel(8);
        let runtime = Peer::start(a, Side::Runtime, calls);
        b.write_all(garbage).await.unwrap();
        let why = tokio::time::timeout(LONG, runtime.ended()).await.unwrap();
        assert!(
            !why.is_empty() && why != "the connection was closed",
            "{why}"
        );
    }
}
