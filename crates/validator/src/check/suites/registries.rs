use std::time::Duration;

use cri::v1::{AuthConfig, PullImageRequest};
use registry::{Auth, Fault, Registry, Rule, image::Layer};

use crate::check::{
    calls::Refused,
    case::{Case, Verdict, case, ensure, ensure_eq},
    scene::{Scene, spec},
};

// Each has the registry's door to itself; other cases pull through it, so nothing runs beside them.
pub(super) const CASES: &[Case] = &[
    case!(alone "registries", "a password is shown where it is asked for", password),
    case!(alone "registries", "a wrong password is refused, and shown to nobody", wrong_password),
    case!(alone "registries", "a token is fetched where one is asked for", token),
    case!(alone "registries", "a registry that is away for a moment is asked again", moment),
    case!(alone "registries", "a slow registry's image comes", slow),
    case!(alone "registries", "a layer that is cut short is fetched whole, or never becomes an image", cut_short),
    case!(alone "registries", "a layer with another byte never becomes an image", corrupt),
    case!(alone "registries", "a layer that is missing never becomes an image", missing),
    case!(alone "registries", "a registry that redirects is followed", redirect),
    case!(
        "registries",
        "a registry that nobody runs is an error that names it",
        nobody
    ),
];

/// A layer of this scene's own, so that it has to be fetched.
fn image(scene: &Scene<'_>) -> (String, String) {
    let mut noise = registry::image::noise(100_000);
    let own = scene.name.as_bytes();
    noise[..own.len()].copy_from_slice(own);
    let built = scene
        .recipe("one")
        .layer(Layer::new().file("noise", 0o644, noise))
        .build();
    let digest = built.layers[1].digest.clone();
    (scene.push("one", "1", &built), digest)
}

async fn pull_as(
    scene: &Scene<'_>,
    image: &str,
    user: &str,
    password: &str,
) -> Result<String, Refused> {
    let request = PullImageRequest {
        image: Some(spec(image)),
        auth: Some(AuthConfig {
            username: user.to_owned(),
            password: password.to_owned(),
            ..Default::default()
        }),
        sandbox_config: None,
    };
    Ok(scene.calls().pull_image(request).await?.image_ref)
}

/// Opens the registry's door again, and heals it, also where the case is given up.
struct Restored<'a>(&'a Registry);

impl Drop for Restored<'_> {
    fn drop(&mut self) {
        self.0.require(Auth::None);
        self.0.heal();
    }
}

async fn guarded<T>(scene: &Scene<'_>, auth: Auth, work: impl Future<Output = T>) -> T {
    let _restored = Restored(&scene.bed.registry);
    scene.bed.registry.require(auth);
    work.await
}

async fn password(scene: &Scene<'_>) -> Verdict {
    let (image, _) = image(scene);
    let auth = Auth::Basic {
        user: "u".to_owned(),
        password: "p:w".to_owned(),
    };
    let (without, with) = guarded(scene, auth, async {
        (
            scene.pull(&image).await,
            pull_as(scene, &image, "u", "p:w").await,
        )
    })
    .await;
    ensure!(without.is_err(), "it is pulled without a password");
    with?;
    scene.present_image(&image).await?;
    Ok(())
}

async fn wrong_password(scene: &Scene<'_>) -> Verdict {
    let (image, _) = image(scene);
    let auth = Auth::Basic {
        user: "u".to_owned(),
        password: "right".to_owned(),
    };
    let answer = guarded(scene, auth, pull_as(scene, &image, "u", "a-secret-of-mine")).await;
    match answer {
        Ok(_) => ensure!(false, "it is pulled by a wrong password"),
        Err(refused) => ensure!(
            !refused.to_string().contains("a-secret-of-mine"),
            "the error has the password"
        ),
    }
    ensure!(scene.image(&image).await?.is_none(), "it is there");
    Ok(())
}

async fn token(scene: &Scene<'_>) -> Verdict {
    let (image, _) = image(scene);
    let auth = Auth::Bearer {
        user: "u".to_owned(),
        password: "p".to_owned(),
    };
    guarded(scene, auth, pull_as(scene, &image, "u", "p")).await?;
    scene.present_image(&image).await?;
    Ok(())
}

async fn broken<T>(scene: &Scene<'_>, rule: Rule, work: impl Future<Output = T>) -> T {
    let _restored = Restored(&scene.bed.registry);
    scene.bed.registry.inject(rule);
    work.await
}

async fn moment(scene: &Scene<'_>) -> Verdict {
    let (image, digest) = image(scene);
    let rule = Rule::new(&digest, Fault::Status(503)).times(1);
    let first = broken(scene, rule, scene.pull(&image)).await;
    // A kubelet asks again, if the runtime has not.
    if first.is_err() {
        scene.pull(&image).await?;
    }
    scene.present_image(&image).await?;
    Ok(())
}

async fn slow(scene: &Scene<'_>) -> Verdict {
    let (image, digest) = image(scene);
    let rule = Rule::new(&digest, Fault::Delay(Duration::from_secs(2)));
    broken(scene, rule, scene.pull(&image)).await?;
    scene.present_image(&image).await?;
    Ok(())
}

/// It is an error, nothing of it is there, and it comes once the registry is well.
async fn never(scene: &Scene<'_>, fault: Fault) -> Verdict {
    let (image, digest) = image(scene);
    let answer = broken(scene, Rule::new(&digest, fault), scene.pull(&image)).await;
    ensure!(answer.is_err(), "it is pulled");
    ensure!(scene.image(&image).await?.is_none(), "ImageStatus finds it");
    scene.pull(&image).await?;
    whole(scene, &image).await
}

async fn whole(scene: &Scene<'_>, image: &str) -> Verdict {
    let pod = scene.any_pod().await?;
    let mut config = scene.script(&pod, "one", "wc -c </noise");
    config.image = Some(spec(image));
    let output = scene.written_by(&pod, config).await?;
    ensure_eq!(output.trim(), "100000", "bytes of its file");
    Ok(())
}

/// Some go on where it broke, as often as it does.
async fn cut_short(scene: &Scene<'_>) -> Verdict {
    let (image, digest) = image(scene);
    let rule = Rule::new(&digest, Fault::Truncate(1000));
    if broken(scene, rule, scene.pull(&image)).await.is_err() {
        ensure!(scene.image(&image).await?.is_none(), "ImageStatus finds it");
        scene.pull(&image).await?;
    }
    whole(scene, &image).await
}

async fn corrupt(scene: &Scene<'_>) -> Verdict {
    never(scene, Fault::Corrupt).await
}

async fn missing(scene: &Scene<'_>) -> Verdict {
    never(scene, Fault::Status(404)).await
}

async fn redirect(scene: &Scene<'_>) -> Verdict {
    let (image, digest) = image(scene);
    let repository = image.split_once('/').map_or("", |it| it.1);
    let (repository, _) = repository.rsplit_once(':').unwrap_or((repository, ""));
    let elsewhere = format!(
        "http://{}/v2/{repository}/blobs/{digest}?elsewhere",
        scene.bed.registry.address()
    );
    let rule = Rule::new(&digest, Fault::Redirect(elsewhere)).times(1);
    broken(scene, rule, scene.pull(&image)).await?;
    scene.present_image(&image).await?;
    Ok(())
}

async fn nobody(scene: &Scene<'_>) -> Verdict {
    // The discard port: nobody listens there.
    let answer = scene.pull("127.0.0.1:9/nobody/nothing:1").await;
    match answer {
        Ok(_) => ensure!(false, "it is pulled"),
        Err(refused) => ensure!(
            refused.to_string().contains("127.0.0.1:9"),
            "the error names no registry: {refused}"
        ),
    }
    Ok(())
}
