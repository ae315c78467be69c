//! `testkit-nri-plugin`: a plugin for a runtime to start. Each container gets the plugin's configuration as `NRI_CONFIG`.

use std::sync::{Arc, Mutex, PoisonError};

use nri::api;
use prost::Message;
use testkit::nri_plugin::{Plugin, Reaction};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let configured = Arc::<Mutex<String>>::default();
    let plugin = Plugin::installed(move |told| {
        let mut config = configured.lock().unwrap_or_else(PoisonError::into_inner);
        match told.method.as_str() {
            "Configure" => {
                let request = api::ConfigureRequest::decode(told.payload.as_slice());
                *config = request.unwrap_or_default().config;
                Reaction::content()
            }
            "CreateContainer" => Reaction::adjust(api::ContainerAdjustment {
                env: vec![api::KeyValue {
                    key: "NRI_CONFIG".to_owned(),
                    value: config.clone(),
                }],
                ..Default::default()
            }),
            _ => Reaction::content(),
        }
    })
    .await?;
    plugin.peer.ended().await;
    Ok(())
}
