package upstream

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hubcap/cache/content"
)

// Descriptor is what a registry states about a manifest.
type Descriptor struct {
	Digest    digest.Digest // empty when not stated, or of an algorithm that is not served
	MediaType string        // empty when not stated
	Size      int64         // bytes; negative when not stated
}

// Manifest is a manifest whose body hashes to its digest.
type Manifest struct {
	Descriptor
	Body  []byte
	Parts []content.Part // what it names
}

// acceptManifests is the Accept header for manifests. Some registries send
// nothing else, so schema 1 is among them: ErrSchema1 explains more than a 404.
var acceptManifests = []string{strings.Join([]string{
	ocispec.MediaTypeImageIndex, "application/vnd.docker.distribution.manifest.list.v2+json",
	ocispec.MediaTypeImageManifest, "application/vnd.docker.distribution.manifest.v2+json",
	"application/vnd.oci.artifact.manifest.v1+json", "application/vnd.cncf.oras.artifact.manifest.v1+json",
	content.DockerSchema1Signed, content.DockerSchema1, "*/*",
}, ", ")}

// HeadManifest returns what a reference, a tag or digest, names. Docker Hub does
// not count it as a pull.
func (c *Client) HeadManifest(ctx context.Context, repository, reference string) (Descriptor, error) {
	req, resp, err := c.fetch(ctx, http.MethodHead, repository, "manifests/"+reference, http.Header{"Accept": acceptManifests})
	if err != nil {
		return Descriptor{}, err
	}
	defer resp.Body.Close()
	d := Descriptor{MediaType: resp.Header.Get("Content-Type"), Size: sizeOf(resp)}
	switch plain := plainType(d.MediaType); {
	case isWebPage(d.MediaType):
		return Descriptor{}, c.invalid(req, "a web page in place of a manifest")
	case isSchema1(plain):
		return Descriptor{}, c.invalid(req, "%w: %s", ErrSchema1, plain)
	case plain == "" || saysNothing(plain):
		d.MediaType = ""
	}
	if named := digest.Digest(resp.Header.Get("Docker-Content-Digest")); Serves(named) {
		d.Digest = named
	}
	return d, nil
}

// GetManifest fetches the manifest that a reference, a tag or digest, names. It
// is a pull, and is not sent while the registry allows none.
func (c *Client) GetManifest(ctx context.Context, repository, reference string) (Manifest, error) {
	if err := c.mayPull(ctx, repository, reference); err != nil {
		return Manifest{}, err
	}
	req, resp, err := c.fetch(ctx, http.MethodGet, repository, "manifests/"+reference, http.Header{"Accept": acceptManifests})
	if err != nil {
		return Manifest{}, err
	}
	c.metrics.Pulled()
	body, err := c.text(req, resp, "a manifest", c.o.MaxManifest)
	if err != nil {
		return Manifest{}, err
	}
	m, shape := content.Parse(body)
	// A manifest of schema 1 has another digest than its bytes: the error is its
	// type, and not a wrong digest.
	if named, old := schema1Of(resp.Header.Get("Content-Type"), m); old {
		return Manifest{}, c.invalid(req, "%w: %s", ErrSchema1, named)
	}
	d, err := manifestDigest(reference, resp.Header.Get("Docker-Content-Digest"), body)
	if err != nil {
		return Manifest{}, c.invalid(req, "%w", err)
	}
	if shape != nil {
		return Manifest{}, c.invalid(req, "a manifest that is not served: %w", shape)
	}
	mediaType, err := manifestType(resp.Header.Get("Content-Type"), m)
	if err != nil {
		return Manifest{}, c.invalid(req, "%w", err)
	}
	return Manifest{Descriptor{Digest: d, MediaType: mediaType, Size: int64(len(body))}, body, m.Parts()}, nil
}

// ManifestOf returns the manifest with the digest d that a body is, announced as
// mediaType by whoever gave it: its bytes and its type are checked as a registry's
// are.
func ManifestOf(d digest.Digest, mediaType string, body []byte) (Manifest, error) {
	if got := d.Algorithm().FromBytes(body); got != d {
		return Manifest{}, fmt.Errorf("a manifest that hashes to %s and not to %s", got, d)
	}
	m, err := content.Parse(body)
	if err != nil {
		return Manifest{}, fmt.Errorf("a manifest that is not served: %w", err)
	}
	if mediaType, err = manifestType(mediaType, m); err != nil {
		return Manifest{}, err
	}
	return Manifest{Descriptor{Digest: d, MediaType: mediaType, Size: int64(len(body))}, body, m.Parts()}, nil
}

// mayPull returns an Error while the registry allows no pulls. A HEAD, which is
// none, finds out at intervals whether it does again.
func (c *Client) mayPull(ctx context.Context, repository, reference string) error {
	if c.caller != nil {
		return nil // each has a limit of its own
	}
	wait := c.budget.wait()
	if wait > 0 {
		c.budget.ask(func() error {
			_, err := c.HeadManifest(ctx, repository, reference)
			return err
		})
		wait = c.budget.wait()
	}
	if wait <= 0 {
		return nil
	}
	return &Error{
		Kind: RateLimited, Upstream: c.o.Label, Request: "GET manifest " + reference + " of " + repository,
		RetryAfter: wait, Credentials: c.login != nil, err: errNoPulls,
	}
}

// Serves reports whether d is a valid digest of an algorithm that hubcap
// supports: sha256 or sha512.
func Serves(d digest.Digest) bool {
	return d.Validate() == nil && (d.Algorithm() == digest.SHA256 || d.Algorithm() == digest.SHA512)
}

// manifestDigest returns the digest of a body: the requested one, or else the one
// in the header, or else its sha256, also in place of one of an unsupported
// algorithm. The error says that the body has another.
func manifestDigest(reference, header string, body []byte) (digest.Digest, error) {
	named, err := digest.Parse(header)
	if err != nil {
		named = digest.FromBytes(body)
	}
	if asked, err := digest.Parse(reference); err == nil {
		named = asked
	}
	if got := named.Algorithm().FromBytes(body); got != named {
		return "", fmt.Errorf("a manifest that hashes to %s and not to %s", got, named)
	}
	if !Serves(named) {
		named = digest.FromBytes(body)
	}
	return named, nil
}
