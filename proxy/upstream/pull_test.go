package upstream

import (
	"bytes"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hubcap/e2e/fakehub"
)

const repo = "library/demo"

// readBlob reads a blob to its end.
func readBlob(t *testing.T, b *Blob, err error) []byte {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(b.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Body.Close(); err != nil {
		t.Fatal(err)
	}
	return body
}

func TestPullManifest(t *testing.T) {
	t.Parallel()
	hub, client := newHub(t, fakehub.Options{})
	image := hub.Image(repo, "latest", fakehub.RandomBlob(1, 1000))
	for name, reference := range map[string]string{"by tag": "latest", "by digest": image.Manifest.Digest.String()} {
		t.Run(name, func(t *testing.T) {
			want := Descriptor{Digest: image.Manifest.Digest, MediaType: image.Manifest.MediaType, Size: image.Manifest.Size}
			d, err := client.HeadManifest(within(t), repo, reference)
			if err != nil || d != want {
				t.Errorf("HEAD: got %+v, %v, want %+v", d, err, want)
			}
			m, err := client.GetManifest(within(t), repo, reference)
			if err != nil || m.Descriptor != want || !bytes.Equal(m.Body, image.Body) {
				t.Errorf("GET: got %+v, %v, want %+v", m, err, want)
			}
		})
	}
	if n := tokenRequests(hub); n != 1 {
		t.Errorf("%d token requests for one repository, want 1", n)
	}
	for _, r := range hub.Log() {
		if r.UserAgent != "hubcap/test" {
			t.Errorf("%s %s came from %q", r.Method, r.Path, r.UserAgent)
		}
		if accept := r.Header.Get("Accept"); r.Kind == fakehub.KindManifest && !strings.Contains(accept, ocispec.MediaTypeImageIndex) {
			t.Errorf("a manifest was requested with Accept %q", accept)
		}
	}
}

// TestPullBlob follows a redirect to the CDN, which must not be sent the token.
func TestPullBlob(t *testing.T) {
	t.Parallel()
	const size = 100_000
	blob := fakehub.RandomBlob(2, size)
	tests := []struct {
		name     string
		off, n   int64
		fault    *fakehub.Fault
		wantOff  int64
		wantSize int64
		want     []byte
	}{
		{name: "whole", n: -1, wantSize: size, want: blob},
		{name: "range", off: 100, n: 50, wantOff: 100, wantSize: size, want: blob[100:150]},
		{name: "first byte", n: 1, wantSize: size, want: blob[:1]},
		{name: "from the middle", off: 99_000, n: -1, wantOff: 99_000, wantSize: size, want: blob[99_000:]},
		{name: "beyond the end", off: 99_999, n: 10, wantOff: 99_999, wantSize: size, want: blob[99_999:]},
		{name: "unsized", n: -1, fault: &fakehub.Fault{NoLength: true}, wantSize: -1, want: blob},
		{name: "ended by closing", n: -1, fault: &fakehub.Fault{UntilClose: true}, wantSize: -1, want: blob},
		{name: "range ignored", off: 100, n: 50, fault: &fakehub.Fault{IgnoreRange: true}, wantSize: size, want: blob},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			hub, client := newHub(t, fakehub.Options{}, withCredentials)
			hub.Set(func(o *fakehub.Options) { o.Users = map[string]string{boxUser: canary} })
			d := hub.AddBlob(repo, blob)
			if tt.fault != nil {
				hub.Script(fakehub.Always(tt.fault, fakehub.OfKind(fakehub.KindCDN)))
			}
			b, err := client.OpenBlob(within(t), repo, d, tt.off, tt.n)
			got := readBlob(t, b, err)
			if b.Off != tt.wantOff || b.Size != tt.wantSize || !bytes.Equal(got, tt.want) {
				t.Errorf("got %d bytes from %d of %d, want %d from %d of %d", len(got), b.Off, b.Size, len(tt.want), tt.wantOff, tt.wantSize)
			}
			if n := hub.AuthorizationLeaks(); n != 0 {
				t.Errorf("%d requests brought a token to the CDN", n)
			}
			if n := hub.Count(fakehub.OfKind(fakehub.KindCDN)); n != 1 {
				t.Errorf("%d requests at the CDN, want 1", n)
			}
			if n, _ := client.metrics.Value("hubcap_upstream_bytes_total"); n < float64(len(got)) {
				t.Errorf("%v bytes counted, of at least %d", n, len(got))
			}
			for _, r := range hub.Log() {
				if r.Role != fakehub.RoleToken && holdsCanary(r.Authorization) {
					t.Errorf("the password went to the %s", r.Role)
				}
				if r.Role == fakehub.RoleCDN && (r.Header.Get("Referer") != "" || r.Header.Get("Cookie") != "") {
					t.Errorf("the CDN was sent more than it needs: %v", r.Header)
				}
			}
		})
	}
}

func TestHeadBlob(t *testing.T) {
	t.Parallel()
	hub, client := newHub(t, fakehub.Options{})
	d := hub.AddBlob(repo, make([]byte, 1234))
	if size, err := client.HeadBlob(within(t), repo, d); err != nil || size != 1234 {
		t.Errorf("got %d, %v, want 1234", size, err)
	}
	hub.Script(fakehub.Always(&fakehub.Fault{NoLength: true}, fakehub.OfKind(fakehub.KindCDN)))
	if size, err := client.HeadBlob(within(t), repo, d); err != nil || size >= 0 {
		t.Errorf("without a length: got %d, %v, want a negative size", size, err)
	}
	if n := hub.AuthorizationLeaks(); n != 0 {
		t.Errorf("%d requests brought a token to the CDN", n)
	}
}

func TestGet(t *testing.T) {
	t.Parallel()
	hub, client := newHub(t, fakehub.Options{})
	image := hub.Image(repo, "a", fakehub.RandomBlob(1, 10))
	hub.Image(repo, "b", fakehub.RandomBlob(2, 10))

	tags, err := client.Get(within(t), repo, "tags/list", url.Values{"n": {"1"}})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(tags.Body, []byte(`"a"`)) || bytes.Contains(tags.Body, []byte(`"b"`)) || tags.Next.Get("last") != "a" {
		t.Errorf("got %q, then %v, want the first of two pages", tags.Body, tags.Next)
	}
	referrers, err := client.Get(within(t), repo, "referrers/"+image.Manifest.Digest.String(), url.Values{"artifactType": {"x/y"}})
	if err != nil {
		t.Fatal(err)
	}
	if referrers.Filters != "artifactType" || referrers.MediaType != ocispec.MediaTypeImageIndex {
		t.Errorf("got %+v, want a filtered index", referrers)
	}
	for name, fault := range map[string]*fakehub.Fault{
		"web page":  {HTML: true},
		"too large": {Body: append(bytes.Repeat([]byte{' '}, maxPage), "{}"...)},
		"endless":   {Endless: true},
	} {
		hub.Script(fakehub.Always(fault, fakehub.OfKind(fakehub.KindTags)))
		_, err := client.Get(within(t), repo, "tags/list", nil)
		t.Run(name, func(t *testing.T) { wantKind(t, err, Invalid) })
	}
}

// TestRefusals maps the refusals of a registry. Each request is made twice: with
// a new token and with one that is held.
func TestRefusals(t *testing.T) {
	t.Parallel()
	hub, client := newHub(t, fakehub.Options{})
	hub.Image("private/demo", "latest", fakehub.RandomBlob(1, 10))
	hub.SetPrivate("private/demo")
	hub.Image(repo, "latest", fakehub.RandomBlob(2, 10))
	absent := digest.FromString("absent")
	tests := []struct {
		name   string
		ask    func(t *testing.T) error
		kind   Kind
		status int
	}{
		{"private manifest", func(t *testing.T) error {
			_, err := client.GetManifest(within(t), "private/demo", "latest")
			return err
		}, Denied, 401},
		{"private head", func(t *testing.T) error {
			_, err := client.HeadManifest(within(t), "private/demo", "latest")
			return err
		}, Denied, 401},
		{"private blob", func(t *testing.T) error {
			_, err := client.OpenBlob(within(t), "private/demo", absent, 0, -1)
			return err
		}, Denied, 401},
		{"private tags", func(t *testing.T) error {
			_, err := client.Get(within(t), "private/demo", "tags/list", nil)
			return err
		}, Denied, 401},
		{"unknown repository", func(t *testing.T) error { _, err := client.GetManifest(within(t), "no/such", "latest"); return err }, NotFound, 404},
		{"unknown tag", func(t *testing.T) error { _, err := client.GetManifest(within(t), repo, "no"); return err }, NotFound, 404},
		{"unknown tag, head", func(t *testing.T) error { _, err := client.HeadManifest(within(t), repo, "no"); return err }, NotFound, 404},
		{"unknown digest", func(t *testing.T) error { _, err := client.GetManifest(within(t), repo, absent.String()); return err }, NotFound, 404},
		{"unknown blob", func(t *testing.T) error { _, err := client.OpenBlob(within(t), repo, absent, 5, 5); return err }, NotFound, 404},
		{"unknown blob, head", func(t *testing.T) error { _, err := client.HeadBlob(within(t), repo, absent); return err }, NotFound, 404},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for range 2 {
				err := tt.ask(t)
				e := wantKind(t, err, tt.kind)
				if e.Status != tt.status || e.Temporary() || e.Failing() {
					t.Errorf("got status %d, temporary %t, failing %t: %v", e.Status, e.Temporary(), e.Failing(), err)
				}
				if !strings.Contains(err.Error(), "registry.test") || !strings.Contains(err.Error(), " /v2/") {
					t.Errorf("%q names no upstream or no request", err)
				}
				client.wantNoSecrets(t, err, secretsOf(hub)...)
			}
		})
	}
}

// TestDeniedOnce: a repository that stays denied costs one token, and no second
// try with another one.
func TestDeniedOnce(t *testing.T) {
	t.Parallel()
	hub, client := newHub(t, fakehub.Options{})
	hub.Image(repo, "latest", fakehub.RandomBlob(1, 10))
	hub.SetPrivate(repo)
	for i := range 3 {
		hub.Reset()
		_, err := client.HeadManifest(within(t), repo, "latest")
		wantKind(t, err, Denied)
		if n := tokenRequests(hub); n != 1 {
			t.Errorf("request %d: %d token requests, want 1", i, n)
		}
		if n := hub.Count(fakehub.OfKind(fakehub.KindManifest)); n > 2 {
			t.Errorf("request %d: %d manifest requests, want at most 2", i, n)
		}
	}
}

// TestCDNRefusal: a signed address that has expired is replaced; the CDN's 403
// is an answer neither about the content nor about the token.
func TestCDNRefusal(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusBadGateway} {
		t.Run(http.StatusText(status), func(t *testing.T) {
			t.Parallel()
			hub, client := newHub(t, fakehub.Options{})
			d := hub.AddBlob(repo, fakehub.RandomBlob(1, 10))
			if _, err := client.HeadBlob(within(t), repo, d); err != nil { // gets a token
				t.Fatal(err)
			}
			hub.Script(fakehub.Always(&fakehub.Fault{Status: status, Header: http.Header{"Www-Authenticate": {`Basic realm="cdn"`}}},
				fakehub.OfKind(fakehub.KindCDN)))
			for range 2 {
				_, err := client.OpenBlob(within(t), repo, d, 0, -1)
				if e := wantKind(t, err, ServerError); !e.Temporary() || !e.Failing() || e.Status != status {
					t.Errorf("got %+v, want a temporary failure", e)
				}
				client.wantNoSecrets(t, err, secretsOf(hub)...)
			}
			if n := hub.Count(fakehub.OfKind(fakehub.KindBlob)); n != 4 {
				t.Errorf("%d blob requests at the registry, want 4: one without a token, three with it", n)
			}
			hub.Script(nil)
			b, err := client.OpenBlob(within(t), repo, d, 0, -1)
			readBlob(t, b, err)
			if n := tokenRequests(hub); n != 1 {
				t.Errorf("%d token requests, want 1: the registry has refused no token", n)
			}
		})
	}
}

func TestExpiredBlobAddress(t *testing.T) {
	t.Parallel()
	// The clock of this hub has passed the end of every address it signs.
	hub, client := newHub(t, fakehub.Options{BlobURLTTL: -1})
	d := hub.AddBlob(repo, fakehub.RandomBlob(1, 10))
	_, err := client.OpenBlob(within(t), repo, d, 0, -1)
	if e := wantKind(t, err, ServerError); e.Status != http.StatusForbidden {
		t.Errorf("got %v, want the CDN's 403", err)
	}
}

func TestWrongManifest(t *testing.T) {
	t.Parallel()
	other := digest.FromString("another manifest").String()
	tests := []struct {
		name     string
		fault    fakehub.Fault
		byDigest bool
		ok       bool
	}{
		// Cut at the limit, this one would be a manifest.
		{name: "above the limit", fault: fakehub.Fault{Body: []byte("{}" + strings.Repeat(" ", 1<<16)), DropDigestHeader: true}},
		{name: "endless", fault: fakehub.Fault{Endless: true}},
		{name: "web page", fault: fakehub.Fault{HTML: true}},
		{name: "web page called a manifest", fault: fakehub.Fault{Body: []byte("<html></html>"), DropDigestHeader: true}},
		{name: "null", fault: fakehub.Fault{Body: []byte("null"), DropDigestHeader: true}},
		{name: "array", fault: fakehub.Fault{Body: []byte("[]"), DropDigestHeader: true}},
		{name: "empty", fault: fakehub.Fault{Body: []byte{}, DropDigestHeader: true}},
		{name: "wrong digest header", fault: fakehub.Fault{WrongDigestHeader: other}},
		{name: "sha512 header that does not fit", fault: fakehub.Fault{WrongDigestHeader: digest.SHA512.FromString("x").String()}},
		{name: "corrupt, by tag", fault: fakehub.Fault{CorruptAt: fakehub.At(10)}},
		{name: "corrupt, by digest", fault: fakehub.Fault{CorruptAt: fakehub.At(10), DropDigestHeader: true}, byDigest: true},
		{name: "another one under its own digest", fault: fakehub.Fault{
			Body: []byte("{}"), Header: http.Header{"Docker-Content-Digest": {digest.FromString("{}").String()}},
		}, byDigest: true},
		{name: "another media type", fault: fakehub.Fault{Header: http.Header{"Content-Type": {ocispec.MediaTypeImageIndex}}}},
		{name: "no media type at all", fault: fakehub.Fault{Body: []byte("{}"), DropContentType: true, DropDigestHeader: true}},
		{name: "garbled media type", fault: fakehub.Fault{Header: http.Header{"Content-Type": {";;"}}}},

		{name: "octets of no type inside", fault: fakehub.Fault{Body: []byte("{}"), Header: http.Header{"Content-Type": {"application/octet-stream"}}, DropDigestHeader: true}},
		{name: "a list of tags", fault: fakehub.Fault{Body: []byte(`{"tags":[]}`), Header: http.Header{"Content-Type": {"application/json"}}, DropDigestHeader: true}},

		{name: "called octets", fault: fakehub.Fault{Header: http.Header{"Content-Type": {"application/octet-stream"}}}, ok: true},
		{name: "called text", fault: fakehub.Fault{Header: http.Header{"Content-Type": {"text/plain; charset=utf-8"}}}, ok: true},
		{name: "called JSON", fault: fakehub.Fault{Header: http.Header{"Content-Type": {"application/json"}}}, ok: true},
		{name: "media type in the body only", fault: fakehub.Fault{DropContentType: true}, ok: true},
		{name: "media type with a parameter", fault: fakehub.Fault{Header: http.Header{"Content-Type": {ocispec.MediaTypeImageManifest + "; charset=utf-8"}}}, ok: true},
		{name: "no digest header", fault: fakehub.Fault{DropDigestHeader: true}, ok: true},
		{name: "garbled digest header", fault: fakehub.Fault{WrongDigestHeader: "sha256:zz"}, ok: true},
		{name: "digest of an unknown kind", fault: fakehub.Fault{WrongDigestHeader: "md5:d41d8cd98f00b204e9800998ecf8427e"}, ok: true},
		{name: "wrong header, asked by digest", fault: fakehub.Fault{WrongDigestHeader: other}, byDigest: true, ok: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			hub, client := newHub(t, fakehub.Options{Anonymous: true})
			image := hub.Image(repo, "latest", fakehub.RandomBlob(1, 10))
			hub.Script(fakehub.Always(&tt.fault, fakehub.OfKind(fakehub.KindManifest)))
			reference := "latest"
			if tt.byDigest {
				reference = image.Manifest.Digest.String()
			}
			m, err := client.GetManifest(within(t), repo, reference)
			if !tt.ok {
				if e := wantKind(t, err, Invalid); e.Temporary() || !e.Failing() {
					t.Errorf("got %+v, want a failure that lasts", e)
				}
				return
			}
			if err != nil || m.Digest != image.Manifest.Digest || !strings.HasPrefix(m.MediaType, ocispec.MediaTypeImageManifest) {
				t.Errorf("got %v of type %q, %v", m.Digest, m.MediaType, err)
			}
		})
	}
}

// TestSHA512 requests a manifest by a digest other than sha256.
func TestSHA512(t *testing.T) {
	t.Parallel()
	hub, client := newHub(t, fakehub.Options{Anonymous: true})
	body := []byte(`{"schemaVersion":2}`)
	d := digest.SHA512.FromBytes(body)
	hub.AddManifestAs(repo, "latest", d, ocispec.MediaTypeImageManifest, body)
	m, err := client.GetManifest(within(t), repo, d.String())
	if err != nil || m.Digest != d {
		t.Errorf("got %v, %v, want %v", m.Digest, err, d)
	}
}

func TestWrongHeadManifest(t *testing.T) {
	t.Parallel()
	hub, client := newHub(t, fakehub.Options{Anonymous: true})
	hub.Image(repo, "latest", fakehub.RandomBlob(1, 10))
	for name, fault := range map[string]*fakehub.Fault{
		"no digest": {DropDigestHeader: true}, "garbled digest": {WrongDigestHeader: "../../etc"},
	} {
		hub.Script(fakehub.Always(fault))
		if d, err := client.HeadManifest(within(t), repo, "latest"); err != nil || d.Digest != "" {
			t.Errorf("%s: got digest %q, %v, want none", name, d.Digest, err)
		}
	}
	hub.Script(fakehub.Always(&fakehub.Fault{HTML: true}))
	_, err := client.HeadManifest(within(t), repo, "latest")
	wantKind(t, err, Invalid)
}

func TestWrongRange(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, contentRange string
		off, n             int64
		ok                 bool
	}{
		{name: "another begin", contentRange: "bytes 0-49/1000", off: 100, n: 50},
		{name: "another unit", contentRange: "pages 100-149/1000", off: 100, n: 50},
		{name: "beyond the size", contentRange: "bytes 100-149/120", off: 100, n: 50},
		{name: "garbled", contentRange: "bytes", off: 100, n: 50},
		{name: "unknown size", contentRange: "bytes 100-149/*", off: 100, n: 50, ok: true},
		{name: "right", contentRange: "bytes 100-149/1000", off: 100, n: 50, ok: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			hub, client := newHub(t, fakehub.Options{})
			d := hub.AddBlob(repo, fakehub.RandomBlob(1, 1000))
			hub.Script(fakehub.Always(&fakehub.Fault{WrongContentRange: tt.contentRange}, fakehub.OfKind(fakehub.KindCDN)))
			b, err := client.OpenBlob(within(t), repo, d, tt.off, tt.n)
			if !tt.ok {
				wantKind(t, err, Invalid)
				return
			}
			readBlob(t, b, err)
			if b.Off != tt.off {
				t.Errorf("got bytes from %d, want from %d", b.Off, tt.off)
			}
		})
	}
	t.Run("206 for no range", func(t *testing.T) {
		t.Parallel()
		hub, client := newHub(t, fakehub.Options{})
		d := hub.AddBlob(repo, fakehub.RandomBlob(1, 1000))
		hub.Script(fakehub.Always(&fakehub.Fault{Status: 206, Header: http.Header{"Content-Range": {"bytes 0-3/1000"}}, Body: []byte("abcd")},
			fakehub.OfKind(fakehub.KindCDN)))
		_, err := client.OpenBlob(within(t), repo, d, 0, -1)
		wantKind(t, err, Invalid)
	})
	t.Run("not satisfiable", func(t *testing.T) {
		t.Parallel()
		hub, client := newHub(t, fakehub.Options{})
		d := hub.AddBlob(repo, fakehub.RandomBlob(1, 1000))
		_, err := client.OpenBlob(within(t), repo, d, 2000, 10)
		wantKind(t, err, Invalid)
	})
}

// TestCutBody: a body that ends early ends with an error, wherever that is.
func TestCutBody(t *testing.T) {
	t.Parallel()
	const size = 5000
	hub, client := newHub(t, fakehub.Options{})
	d := hub.AddBlob(repo, fakehub.RandomBlob(1, size))
	image := hub.Image(repo, "latest", fakehub.RandomBlob(2, 10))
	for _, at := range []int64{0, 1, size / 2, size - 1} {
		hub.Script(fakehub.Always(&fakehub.Fault{CutAt: fakehub.At(at)}, fakehub.OfKind(fakehub.KindCDN)))
		b, err := client.OpenBlob(within(t), repo, d, 0, -1)
		if err != nil {
			continue // cut before the headers were out
		}
		if n, err := io.Copy(io.Discard, b.Body); err == nil || n > at {
			t.Errorf("cut at %d: got %d bytes and error %v", at, n, err)
		}
		b.Body.Close()
	}
	hub.Script(fakehub.Always(&fakehub.Fault{CutAt: fakehub.At(int64(len(image.Body) / 2))}, fakehub.OfKind(fakehub.KindManifest)))
	_, err := client.GetManifest(within(t), repo, "latest")
	if e := wantKind(t, err, Unreachable); !e.Temporary() {
		t.Errorf("got %v, want a temporary failure", err)
	}
	hub.Script(fakehub.Always(&fakehub.Fault{CutAt: fakehub.At(3)}, fakehub.OfKind(fakehub.KindTags)))
	_, err = client.Get(within(t), repo, "tags/list", nil)
	wantKind(t, err, Unreachable)
}

// TestBelowAPath requests from a registry whose /v2/ is not at the root.
func TestBelowAPath(t *testing.T) {
	t.Parallel()
	w := newRecorder(t, "127.0.0.1", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
		io.WriteString(w, "{}")
	})
	client := newFixture(t, w.URL+"/sub/path")
	if _, err := client.GetManifest(within(t), "a/b", "latest"); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(w.all(), "GET /sub/path/v2/a/b/manifests/latest HTTP/1.1") {
		t.Errorf("the registry was asked %q", w.all())
	}
}
