use std::{collections::BTreeSet, time::Duration};

use cri::v1::*;
use registry::image::Layer;

use crate::check::{
    case::{Case, Verdict, case, ensure, ensure_eq},
    scene::{Scene, spec},
};

pub(super) const CASES: &[Case] = &[
    case!(
        "image",
        "one of a tag is pulled, listed and removed",
        by_tag
    ),
    case!("image", "one of no tag is that of latest", without_tag),
    case!(
        "image",
        "one of a digest is pulled, listed and removed",
        by_digest
    ),
    case!(
        "image",
        "it is found by tag, by digest and by id",
        references
    ),
    case!("image", "its user is told, by number or by name", users),
    case!("image", "its size is told", size),
    case!("image", "three images are three", three_images),
    case!("image", "three tags of one image are one image", three_tags),
    case!(
        "image",
        "removing it by one tag removes all its tags",
        removes_all_tags
    ),
    case!("image", "lists are filtered by reference", filter),
    case!(
        "image",
        "one that is not here is no error to ask for or remove",
        absent
    ),
    case!("image", "what is no reference is refused", no_reference),
    case!("image", "a repository without it is refused", not_there),
    case!(
        "image",
        "an index leads to the image for this machine",
        index
    ),
    case!("image", "what a later layer takes away is away", whiteouts),
    case!(
        "image",
        "one that a container runs is not pinned, the pause image is",
        pinned
    ),
    case!("image", "the file system of images is told", file_system),
    case!(alone "image", "bytes in use grow with a pull and shrink with a removal", usage),
];

async fn by_tag(scene: &Scene<'_>) -> Verdict {
    let reference = scene.own_image("one");
    comes_and_goes(scene, &reference).await?;
    Ok(())
}

async fn comes_and_goes(scene: &Scene<'_>, reference: &str) -> Verdict<Image> {
    let pulled = scene.pull(reference).await?;
    ensure!(!pulled.is_empty(), "PullImage: no image_ref in the answer");
    let image = scene.present_image(reference).await?;
    let listed = scene.images().await?;
    let listed = listed.into_iter().find(|it| it.id == image.id);
    ensure_eq!(
        listed.as_ref().map(|it| (&it.repo_tags, &it.repo_digests)),
        Some((&image.repo_tags, &image.repo_digests)),
        "the listed image's tags and digests"
    );
    scene.remove_image(reference).await?;
    ensure!(
        scene.image(reference).await?.is_none(),
        "ImageStatus finds it afterwards"
    );
    let left = scene.images().await?;
    ensure!(
        left.iter().all(|it| it.id != image.id),
        "it is listed afterwards"
    );
    Ok(image)
}

async fn without_tag(scene: &Scene<'_>) -> Verdict {
    let reference = scene.push("one", "latest", &scene.recipe("one").build());
    let bare = reference.trim_end_matches(":latest");
    let image = comes_and_goes(scene, bare).await?;
    ensure_eq!(image.repo_tags, [reference.as_str()], "its tags");
    Ok(())
}

async fn by_digest(scene: &Scene<'_>) -> Verdict {
    let built = scene.recipe("one").build();
    let reference = scene.push("one", "1", &built);
    let (repository, _) = reference.rsplit_once(':').unwrap_or((&reference, ""));
    let by_digest = format!("{repository}@{}", built.digest());
    let image = comes_and_goes(scene, &by_digest).await?;
    ensure!(
        image.repo_tags.is_empty(),
        "it has tags that nobody asked for: {:?}",
        image.repo_tags
    );
    ensure_eq!(image.repo_digests, [by_digest], "its digests");
    Ok(())
}

async fn references(scene: &Scene<'_>) -> Verdict {
    let built = scene.recipe("one").build();
    let reference = scene.push("one", "1", &built);
    scene.pull(&reference).await?;
    let id = scene.present_image(&reference).await?.id;
    let (repository, _) = reference.rsplit_once(':').unwrap_or((&reference, ""));
    let digest = format!("{repository}@{}", built.digest());
    let short = id.trim_start_matches("sha256:").to_owned();
    for other in [digest, id.clone(), short] {
        ensure_eq!(
            scene.present_image(&other).await?.id,
            id,
            "the id of {other}"
        );
    }
    Ok(())
}

async fn users(scene: &Scene<'_>) -> Verdict {
    for (user, uid, name) in [
        ("1002", Some(1002), ""),
        ("1003:1004", Some(1003), ""),
        ("www-data", None, "www-data"),
        ("www-data:1004", None, "www-data"),
        ("", Some(0), ""),
    ] {
        let label = format!("u{}", user.replace(':', "-"));
        let mut recipe = scene.recipe(&label);
        if !user.is_empty() {
            recipe = recipe.user(user);
        }
        let reference = scene.push(&label, "1", &recipe.build());
        scene.pull(&reference).await?;
        let image = scene.present_image(&reference).await?;
        // Nobody said is root.
        let root = user.is_empty().then_some(0);
        let told = (
            image.uid.map(|it| it.value).or(root),
            image.username.as_str(),
        );
        ensure_eq!(told, (uid, name), "uid and username of USER {user:?}");
    }
    Ok(())
}

async fn size(scene: &Scene<'_>) -> Verdict {
    let layer = Layer::new().file("noise", 0o644, registry::image::noise(1 << 20));
    let reference = scene.push("one", "1", &scene.recipe("one").layer(layer).build());
    scene.pull(&reference).await?;
    let image = scene.present_image(&reference).await?;
    ensure!(
        image.size > 1 << 20,
        "a size of {} for an image with a file of 1 MiB that does not compress",
        image.size
    );
    Ok(())
}

async fn three_images(scene: &Scene<'_>) -> Verdict {
    let references = ["one", "two", "three"].map(|name| scene.own_image(name));
    let mut ids = BTreeSet::new();
    for reference in &references {
        scene.pull(reference).await?;
        ids.insert(scene.present_image(reference).await?.id);
    }
    ensure_eq!(ids.len(), 3, "ids of three images");
    let listed = scene.images().await?;
    let listed = listed.iter().filter(|it| ids.contains(&it.id)).count();
    ensure_eq!(listed, 3, "how many of them are listed");
    Ok(())
}

/// One image by three tags.
async fn tagged(scene: &Scene<'_>) -> Verdict<[String; 3]> {
    let built = scene.recipe("one").build();
    let references = ["1", "2", "3"].map(|tag| scene.push("one", tag, &built));
    for reference in &references {
        scene.pull(reference).await?;
    }
    Ok(references)
}

async fn three_tags(scene: &Scene<'_>) -> Verdict {
    let references = tagged(scene).await?;
    let image = scene.present_image(&references[0]).await?;
    let mut tags = image.repo_tags.clone();
    tags.sort();
    ensure_eq!(tags, references.to_vec(), "its tags");
    let listed = scene.images().await?;
    let listed = listed.iter().filter(|it| it.id == image.id).count();
    ensure_eq!(listed, 1, "how often it is listed");
    Ok(())
}

async fn removes_all_tags(scene: &Scene<'_>) -> Verdict {
    let references = tagged(scene).await?;
    scene.remove_image(&references[1]).await?;
    for reference in &references {
        ensure!(
            scene.image(reference).await?.is_none(),
            "{reference} is still there"
        );
    }
    Ok(())
}

async fn filter(scene: &Scene<'_>) -> Verdict {
    let (one, two) = (scene.own_image("one"), scene.own_image("two"));
    scene.pull(&one).await?;
    scene.pull(&two).await?;
    let wanted = scene.present_image(&one).await?.id;
    let request = ListImagesRequest {
        filter: Some(ImageFilter {
            image: Some(spec(&one)),
        }),
    };
    let listed = scene.calls().list_images(request).await?.images;
    let ids: Vec<_> = listed.iter().map(|it| &it.id).collect();
    ensure_eq!(ids, [&wanted], "images of that reference");
    Ok(())
}

async fn absent(scene: &Scene<'_>) -> Verdict {
    let reference = scene.own_image("one");
    ensure!(
        scene.image(&reference).await?.is_none(),
        "it is there before it is pulled"
    );
    scene.remove_image(&reference).await?;
    Ok(())
}

async fn no_reference(scene: &Scene<'_>) -> Verdict {
    for text in ["", "UPPER/case", "a@sha256:short", "a b"] {
        ensure!(scene.pull(text).await.is_err(), "{text:?} is pulled");
    }
    Ok(())
}

async fn not_there(scene: &Scene<'_>) -> Verdict {
    let reference = scene.own_image("one");
    let other = reference.replace("/one:1", "/one:2");
    ensure!(
        scene.pull(&other).await.is_err(),
        "a tag that is not there is pulled"
    );
    ensure!(scene.image(&other).await?.is_none(), "and is there");
    Ok(())
}

async fn index(scene: &Scene<'_>) -> Verdict {
    let own = scene.recipe("one").build();
    let foreign = scene
        .recipe("one")
        .architecture("s390x")
        .label("foreign", "yes")
        .build();
    let reference = scene.push("one", "1", &own);
    let repository = reference.split_once('/').map_or("", |it| it.1);
    let (repository, _) = repository.rsplit_once(':').unwrap_or((repository, ""));
    scene
        .bed
        .registry
        .push_index(repository, "1", &[&foreign, &own]);
    scene.pull(&reference).await?;
    // Some runtimes leave the algorithm out.
    let id = scene.present_image(&reference).await?.id;
    ensure_eq!(
        id.trim_start_matches("sha256:"),
        own.id().trim_start_matches("sha256:"),
        "the id"
    );
    Ok(())
}

async fn whiteouts(scene: &Scene<'_>) -> Verdict {
    let first = Layer::new()
        .directory("data", 0o755)
        .file("data/kept", 0o644, "kept")
        .file("data/gone", 0o644, "gone")
        .directory("opaque", 0o755)
        .file("opaque/gone", 0o644, "gone");
    let second = Layer::new()
        .whiteout("data/gone")
        .directory("opaque", 0o755)
        .opaque("opaque")
        .file("opaque/new", 0o644, "new");
    let image = scene.recipe("one").layer(first).layer(second).build();
    let reference = scene.push("one", "1", &image);
    scene.pull(&reference).await?;
    let pod = scene.any_pod().await?;
    let mut config = scene.container(&pod, "one", &["sh", "-c", "ls /data /opaque"]);
    config.image = Some(spec(&reference));
    let output = scene.written_by(&pod, config).await?;
    let words: Vec<_> = output.split_whitespace().collect();
    ensure_eq!(words, ["/data:", "kept", "/opaque:", "new"], "the files");
    Ok(())
}

async fn pinned(scene: &Scene<'_>) -> Verdict {
    let reference = scene.own_image("one");
    scene.pull(&reference).await?;
    let image = scene.present_image(&reference).await?;
    ensure!(!image.pinned, "an image that nobody pinned is pinned");
    for image in scene.images().await? {
        let pause = image.repo_tags.iter().any(|tag| tag.contains("/pause:"));
        ensure!(
            !pause || image.pinned || tag_of_a_case(&image),
            "{:?} is not pinned",
            image.repo_tags
        );
    }
    Ok(())
}

fn tag_of_a_case(image: &Image) -> bool {
    image.repo_tags.iter().any(|tag| tag.contains("/check/"))
}

async fn file_system(scene: &Scene<'_>) -> Verdict {
    let reply = scene.calls().image_fs_info(ImageFsInfoRequest {}).await?;
    ensure!(!reply.image_filesystems.is_empty(), "there is none");
    for usage in &reply.image_filesystems {
        let path = usage.fs_id.as_ref().map(|it| it.mountpoint.as_str());
        ensure!(
            path.is_some_and(|path| path.starts_with('/')),
            "no mount point: {usage:?}"
        );
        ensure!(
            usage.timestamp > 0 && usage.used_bytes.is_some(),
            "no time, or no bytes: {usage:?}"
        );
    }
    Ok(())
}

async fn usage(scene: &Scene<'_>) -> Verdict {
    let used = async || -> Verdict<u64> {
        let reply = scene.calls().image_fs_info(ImageFsInfoRequest {}).await?;
        let bytes = reply.image_filesystems.iter();
        Ok(bytes
            .filter_map(|it| it.used_bytes.as_ref())
            .map(|it| it.value)
            .sum())
    };
    // What other cases have removed may still be going.
    let mut least = scene
        .until("as many bytes in use as a second ago", async || {
            let before = used().await?;
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok((used().await? == before).then_some(before))
        })
        .await?;
    let layer = Layer::new().file("noise", 0o644, registry::image::noise(8 << 20));
    let reference = scene.push("one", "1", &scene.recipe("one").layer(layer).build());
    scene.pull(&reference).await?;
    let grown = async || {
        let now = used().await?;
        least = least.min(now);
        Ok((now >= least + (4 << 20)).then_some(()))
    };
    scene.until("4 MiB more in use", grown).await?;
    let full = used().await?;
    scene.remove_image(&reference).await?;
    let shrunk = async || Ok((used().await? + (4 << 20) <= full).then_some(()));
    scene.until("4 MiB less in use", shrunk).await
}
