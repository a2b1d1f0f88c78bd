package pull

import (
	"context"

	"github.com/opencontainers/go-digest"

	"hubcap/cache"
	"hubcap/proxy/freshness"
	"hubcap/proxy/upstream"
)

// What follows is for content that an operator takes from one box to another.

// Read writes a blob of the repository to w, from its start to its end, as a client
// would be given it. It is no pull: nothing is prefetched.
func (r Repository) Read(ctx context.Context, d digest.Digest, w cache.Sink) error {
	b, err := r.open(ctx, r.want(d, -1))
	if err != nil {
		return err
	}
	defer b.Close()
	return b.Send(ctx, w, 0, -1)
}

// TakeBlob notes that a stored blob, which an operator has brought, belongs to the
// repository: its clients may see it.
func (r Repository) TakeBlob(d digest.Digest) {
	r.puller.o.Cache.TakeBlob(r.want(d, -1))
	r.linkTo(d)
}

// TakeManifest stores a manifest that an operator has brought as one of the
// repository. It returns once it is on disk.
func (r Repository) TakeManifest(d upstream.Descriptor, body []byte) error {
	m := cache.Manifest{Digest: d.Digest, MediaType: d.MediaType, Body: body}
	if r.View.Restricted() {
		m.Restricted, m.Host = true, r.Upstream.Host
	}
	r.linkTo(d.Digest)
	return r.puller.o.Cache.TakeManifest(m)
}

// TakeTag has a tag of the repository name a manifest of TakeManifest; see
// freshness.Resolver.Import.
func (r Repository) TakeTag(tag string, d upstream.Descriptor) (freshness.TagStatus, error) {
	return r.puller.o.Tags.Import(r.question(), tag, d)
}
