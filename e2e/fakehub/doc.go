// Package fakehub is a stand-in for Docker Hub, for tests and benchmarks.
//
// It plays the three parts that clients of Docker Hub talk to: the registry
// (manifests, tags, referrers, and a 307 for each blob), the token service
// that the registry's challenge names, and the CDN behind the signed and
// expiring URLs of the redirects. It counts pulls against a rate limit, hides
// private repositories, caps bandwidth, adds latency, goes down and comes back,
// plays scripted faults, and remembers every request it saw.
//
// It is not a registry for keeping images: nothing can be pushed, nothing is
// stored on disk, the log grows without bound, and nothing defends it against
// hostile clients. Content is added with methods, also while it serves.
//
// In a test:
//
//	hub := fakehub.Start(t, fakehub.Options{})
//	img := hub.Image("library/demo", "latest", fakehub.RandomBlob(1, 1<<20))
//	hub.Script(fakehub.Once(&fakehub.Fault{CutAt: fakehub.At(1000)}, fakehub.OfKind(fakehub.KindCDN)))
//	... pull from hub.RegistryURL() with hub.Client() ...
//	n := hub.BytesSent(img.Layers[0].Digest)
//
// HTTP/1.1 is spoken unless Options.HTTP2 is set. All methods of Hub are safe
// for concurrent use.
package fakehub
