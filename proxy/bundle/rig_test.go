package bundle_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"hubcap/e2e/fakehub"
	"hubcap/e2e/testbox"
	"hubcap/e2e/testkit"
	"hubcap/proxy/bundle"
	"hubcap/proxy/reference"
	"hubcap/proxy/server"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

const (
	kib  = 1 << 10
	mib  = 1 << 20
	repo = "library/demo"
)

type rigOptions struct {
	hub     *fakehub.Hub // nil: the box is offline
	environ []string
	cache   int64 // bytes; 256 MiB when 0
}

// rig is a box in front of a fakehub, or a box that is offline.
type rig struct {
	*testbox.Rooms
	t   testing.TB
	log *testkit.Log
}

func newRig(t testing.TB, o rigOptions) *rig {
	t.Helper()
	log := new(testkit.Log)
	options := server.Options{Log: slog.New(slog.NewTextHandler(log, nil))}
	return &rig{testbox.Build(t, o.hub, t.TempDir(), o.cache, o.environ, options), t, log}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func refs(t testing.TB, names ...string) (all []reference.Reference) {
	t.Helper()
	for _, name := range names {
		one, err := reference.Parse(name, reference.DockerHub)
		must(t, err)
		all = append(all, one)
	}
	return all
}

// try is an answer at the mirror port.
func (r *rig) try(path string) (int, []byte) {
	r.t.Helper()
	return testbox.Get(r.t, r.Mirror+"/v2/"+path, nil)
}

// serves checks that the box serves a manifest by a tag, and the blobs of images.
func (r *rig) serves(name, tag string, want v1.Descriptor, images ...fakehub.Image) {
	r.t.Helper()
	status, body := r.try(name + "/manifests/" + tag)
	if status != http.StatusOK || int64(len(body)) != want.Size || want.Digest.Algorithm().FromBytes(body) != want.Digest {
		r.t.Errorf("%s:%s: %d %.200s\n%s", name, tag, status, body, r.log)
	}
	for _, image := range images {
		for _, d := range append([]v1.Descriptor{image.Manifest, image.Config}, image.Layers...) {
			kind := "blobs"
			if d.Digest == image.Manifest.Digest {
				kind = "manifests"
			}
			if status, body := r.try(name + "/" + kind + "/" + d.Digest.String()); status != http.StatusOK || int64(len(body)) != d.Size {
				r.t.Errorf("%s: %d, %d bytes", d.Digest, status, len(body))
			}
		}
	}
}

// objects returns how many manifests and blobs are stored.
func (r *rig) objects() (n int) {
	for range r.Cache.Objects() {
		n++
	}
	return n
}

// export returns the bundle of an order, which has the size that was said.
func (r *rig) export(o bundle.Order) []byte {
	r.t.Helper()
	plan, err := r.Bundle.Plan(r.t.Context(), o)
	if err != nil {
		r.t.Fatalf("%v\n%s", err, r.log)
	}
	var b bytes.Buffer
	must(r.t, plan.Write(r.t.Context(), &b, nil))
	if int64(b.Len()) != plan.Bytes {
		r.t.Errorf("%d bytes were said, and it has %d", plan.Bytes, b.Len())
	}
	return b.Bytes()
}

func (r *rig) take(text []byte, o bundle.Intake) bundle.Imported {
	r.t.Helper()
	got, err := r.Bundle.Import(r.t.Context(), bytes.NewReader(text), o, nil)
	if err != nil {
		r.t.Fatalf("%v\n%s", err, r.log)
	}
	return got
}

// via returns how the tag came to its present digest, empty if it is not known.
func (r *rig) via(name string) string {
	r.t.Helper()
	ref := refs(r.t, name)[0]
	repository, err := r.Warm.Repository(ref)
	must(r.t, err)
	lines, now, err := repository.History(ref.Tag)
	if err != nil {
		return ""
	}
	i := slices.IndexFunc(lines, func(l freshLine) bool { return l.Digest == now.Digest })
	return string(lines[i].Via)
}

// entry is a file of a tar.
type entry struct {
	tar.Header
	body []byte
}

func entries(t testing.TB, text []byte) (all []entry) {
	t.Helper()
	for r := tar.NewReader(bytes.NewReader(text)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		must(t, err)
		body, err := io.ReadAll(r)
		must(t, err)
		all = append(all, entry{*h, body})
	}
}

func archive(t testing.TB, all ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range all {
		if e.Size == 0 {
			e.Size = int64(len(e.body))
		}
		e.Mode, e.Format = 0o644, tar.FormatUnknown
		must(t, w.WriteHeader(&e.Header))
		_, err := w.Write(e.body)
		must(t, err)
	}
	must(t, w.Close())
	return b.Bytes()
}

func plain(name string, body []byte) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeReg}, body}
}

// multi is an index of two platforms and an attestation.
type multi struct {
	top                  v1.Descriptor
	amd64, arm64, attest fakehub.Image
}

func newMulti(hub *fakehub.Hub, tag string, seed uint64) (m multi) {
	platform := func(d v1.Descriptor, name string) v1.Descriptor {
		os, arch, _ := strings.Cut(name, "/")
		d.Platform = &v1.Platform{OS: os, Architecture: arch}
		return d
	}
	shared := fakehub.RandomBlob(seed, 3*kib)
	m.amd64 = hub.Image(repo, "", shared, fakehub.RandomBlob(seed+1, 100*kib))
	m.arm64 = hub.Image(repo, "", shared, fakehub.RandomBlob(seed+2, 9*mib))
	m.attest = hub.Image(repo, "", fakehub.RandomBlob(seed+3, kib))
	m.top = hub.Index(repo, tag, m.amd64.Manifest, platform(m.arm64.Manifest, "linux/arm64"), platform(m.attest.Manifest, "unknown/unknown"))
	return m
}
