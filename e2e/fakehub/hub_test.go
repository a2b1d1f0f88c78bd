package fakehub

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const repo = "library/demo"

// reply is an answer that was read to its end or to an error.
type reply struct {
	*http.Response
	body []byte
	err  error
}

// patience is how long what must happen is waited for.
const patience = time.Minute

// do sends a request with headers given as "Name: value".
func do(t *testing.T, h *Hub, method, url string, headers ...string) reply {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Add(name, value)
	}
	resp, err := h.Client().Do(r)
	if err != nil {
		return reply{err: err}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return reply{resp, body, err}
}

// get requests a path of the registry with an anonymous token for repo.
func get(t *testing.T, h *Hub, path string, headers ...string) reply {
	t.Helper()
	return do(t, h, "GET", h.RegistryURL()+path, append(headers, "Authorization: Bearer "+h.Token("", repo))...)
}

func blobURL(d digest.Digest) string { return "/v2/" + repo + "/blobs/" + d.String() }
func manifestURL(ref string) string  { return "/v2/" + repo + "/manifests/" + ref }
func (r reply) is(status int) bool   { return r.err == nil && r.StatusCode == status }
func (r reply) code() string {
	var doc struct{ Errors []struct{ Code string } }
	if json.Unmarshal(r.body, &doc) != nil || len(doc.Errors) == 0 {
		return ""
	}
	return doc.Errors[0].Code
}

func (r reply) String() string {
	if r.Response == nil {
		return fmt.Sprint(r.err)
	}
	return fmt.Sprintf("%s, %v, %d bytes, error %v", r.Status, r.Header, len(r.body), r.err)
}

// modes are the combinations of listeners and protocols.
var modes = map[string]Options{
	"three listeners":          {},
	"three listeners, TLS":     {TLS: true},
	"three listeners, h2":      {TLS: true, HTTP2: true},
	"by name":                  {Names: DockerHub()},
	"by name, TLS":             {Names: DockerHub(), TLS: true},
	"by name, TLS, h2, opaque": {Names: DockerHub(), TLS: true, HTTP2: true, OpaqueTokens: true},
}

func TestPull(t *testing.T) {
	for name, options := range modes {
		t.Run(name, func(t *testing.T) {
			h := Start(t, options)
			layer := RandomBlob(1, 3<<20)
			img := h.Image(repo, "latest", layer)
			index := h.Index(repo, "multi", img.Manifest)

			ping := do(t, h, "GET", h.RegistryURL()+"/v2/")
			if want := fmt.Sprintf(`Bearer realm="%s/token",service="registry.docker.io"`, h.TokenURL()); !ping.is(401) || ping.Header.Get("Www-Authenticate") != want {
				t.Fatalf("ping: %v", ping)
			}
			refused := do(t, h, "GET", h.RegistryURL()+manifestURL("latest"))
			want := fmt.Sprintf(`Bearer realm="%s/token",service="registry.docker.io",scope="repository:library/demo:pull"`, h.TokenURL())
			if !refused.is(401) || refused.Header.Get("Www-Authenticate") != want || refused.code() != "UNAUTHORIZED" {
				t.Fatalf("without token: %v", refused)
			}
			var token struct {
				Token, Access_token string
				Expires_in          int
				Issued_at           time.Time
			}
			answer := do(t, h, "GET", h.TokenURL()+"/token?service=registry.docker.io&scope=repository:library/demo:pull")
			if err := json.Unmarshal(answer.body, &token); err != nil || token.Token != token.Access_token || token.Expires_in != 300 || token.Issued_at.IsZero() {
				t.Fatalf("token: %v %s", answer, answer.body)
			}
			auth := "Authorization: Bearer " + token.Token
			if r := do(t, h, "GET", h.RegistryURL()+"/v2/", auth); !r.is(200) {
				t.Errorf("ping with token: %v", r)
			}
			for ref, d := range map[string]ocispec.Descriptor{"latest": img.Manifest, img.Manifest.Digest.String(): img.Manifest, "multi": index} {
				for _, method := range []string{"GET", "HEAD"} {
					r := do(t, h, method, h.RegistryURL()+manifestURL(ref), auth)
					if !r.is(200) || r.Header.Get("Docker-Content-Digest") != d.Digest.String() || r.Header.Get("Content-Type") != d.MediaType ||
						r.ContentLength != d.Size || r.Header.Get("Docker-Distribution-Api-Version") != "registry/2.0" {
						t.Errorf("%s %s: %v", method, ref, r)
					}
					if method == "GET" && digest.FromBytes(r.body) != d.Digest {
						t.Errorf("%s: wrong bytes", ref)
					}
				}
			}
			blob := do(t, h, "GET", h.RegistryURL()+blobURL(img.Layers[0].Digest), auth)
			if !blob.is(200) || !bytes.Equal(blob.body, layer) || h.CDNURL() != blob.Request.URL.Scheme+"://"+blob.Request.URL.Host {
				t.Fatalf("blob: %v from %v", blob, blob.Request)
			}
			if n := h.BytesSent(img.Layers[0].Digest); n != int64(len(layer)) {
				t.Errorf("log has %d bytes sent", n)
			}
			if n := h.Count(OfKind(KindCDN), OfReference(img.Layers[0].Digest), OfStatus(200)); n != 1 {
				t.Errorf("%d requests to the CDN in the log", n)
			}
			if n := h.AuthorizationLeaks(); n != 0 {
				t.Errorf("%d tokens leaked to the CDN", n)
			}
		})
	}
}

func TestErrors(t *testing.T) {
	h := Start(t, Options{})
	h.AddBlob(repo, []byte("x"))
	gone := digest.FromString("gone")
	for name, c := range map[string]struct {
		path   string
		status int
		code   string
	}{
		"unknown tag":      {manifestURL("nope"), 404, "MANIFEST_UNKNOWN"},
		"unknown manifest": {manifestURL(gone.String()), 404, "MANIFEST_UNKNOWN"},
		"bad digest":       {manifestURL("sha256:abcd"), 400, "DIGEST_INVALID"},
		"unknown blob":     {blobURL(gone), 404, "BLOB_UNKNOWN"},
		"bad blob digest":  {blobURL("md5:00"), 400, "DIGEST_INVALID"},
		"bad name":         {"/v2/UPPER/manifests/x", 400, "NAME_INVALID"},
		"no such page":     {"/v2/_catalog", 404, "NOT_FOUND"},
	} {
		if r := get(t, h, c.path); !r.is(c.status) || r.code() != c.code {
			t.Errorf("%s: %v %s", name, r, r.body)
		}
	}
	r := do(t, h, "GET", h.RegistryURL()+"/v2/no/where/at/all/manifests/x", "Authorization: Bearer "+h.Token("", "no/where/at/all"))
	if !r.is(404) || r.code() != "NAME_UNKNOWN" {
		t.Errorf("unknown name: %v", r)
	}
	h.Set(func(o *Options) { o.HideUnknown = true })
	if r := do(t, h, "GET", h.RegistryURL()+"/v2/no/where/manifests/x", "Authorization: Bearer "+h.Token("", "no/where")); !r.is(401) {
		t.Errorf("hidden unknown name: %v", r)
	}
	if r := do(t, h, "PUT", h.RegistryURL()+manifestURL("x")); !r.is(405) || r.code() != "UNSUPPORTED" {
		t.Errorf("push: %v", r)
	}
}

func TestContent(t *testing.T) {
	h := Start(t, Options{Anonymous: true})
	file := filepath.Join(t.TempDir(), "layer")
	if err := os.WriteFile(file, RandomBlob(2, 3<<20+17), 0o600); err != nil {
		t.Fatal(err)
	}
	fromFile, err := h.AddBlobFile(repo, file)
	if err != nil {
		t.Fatal(err)
	}
	big := digest.SHA512.FromString("long")
	h.AddBlobAs(repo, big, []byte("long"))
	blobs := map[string]digest.Digest{
		"file": fromFile, "empty": h.AddBlob(repo, nil), "sha512": big,
		"random": h.AddRandomBlob(repo, 3, 2<<20+5),
	}
	for _, direct := range []bool{false, true} {
		h.Set(func(o *Options) { o.DirectBlobs = direct })
		for name, d := range blobs {
			r := do(t, h, "GET", h.RegistryURL()+blobURL(d))
			if !r.is(200) || d.Algorithm().FromBytes(r.body) != d || r.ContentLength != int64(len(r.body)) {
				t.Errorf("%s: %v", name, r)
			}
			if got := r.Request.URL.Host == h.Host(); got != direct {
				t.Errorf("%s: direct %v", name, got)
			}
			head := do(t, h, "HEAD", h.RegistryURL()+blobURL(d))
			if !head.is(200) || head.ContentLength != r.ContentLength {
				t.Errorf("HEAD %s: %v", name, head)
			}
		}
	}
	if d := digest.FromBytes(RandomBlob(3, 2<<20+5)); d != blobs["random"] {
		t.Error("AddRandomBlob and RandomBlob differ")
	}
	h.DeleteBlob(repo, fromFile)
	if r := do(t, h, "GET", h.RegistryURL()+blobURL(fromFile)); !r.is(404) {
		t.Errorf("deleted blob: %v", r)
	}
	img := h.Image(repo, "a", Tar("bin/true", []byte("x")))
	h.SetTag(repo, "b", img.Manifest.Digest)
	h.DeleteTag(repo, "a")
	if r := do(t, h, "GET", h.RegistryURL()+manifestURL("a")); !r.is(404) {
		t.Errorf("deleted tag: %v", r)
	}
	if r := do(t, h, "GET", h.RegistryURL()+manifestURL("b")); !r.is(200) {
		t.Errorf("moved tag: %v", r)
	}
	h.DeleteManifest(repo, img.Manifest.Digest)
	if r := do(t, h, "GET", h.RegistryURL()+manifestURL("b")); !r.is(404) {
		t.Errorf("deleted manifest: %v", r)
	}
	h.ImageOf(repo, "c", ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: fromFile, Size: 3<<20 + 17})
	if r := do(t, h, "GET", h.RegistryURL()+manifestURL("c")); !r.is(200) {
		t.Errorf("image of descriptors: %v", r)
	}
}

func TestRandomBlobFromAnyOffset(t *testing.T) {
	whole := RandomBlob(7, 100)
	for offset := range int64(40) {
		r := &randomReader{seed: 7, size: 100}
		r.Seek(offset, io.SeekStart)
		got, _ := io.ReadAll(io.LimitReader(r, 33))
		if !bytes.Equal(got, whole[offset:offset+33]) {
			t.Fatalf("offset %d differs", offset)
		}
	}
}

func TestRange(t *testing.T) {
	h := Start(t, Options{Anonymous: true})
	data := RandomBlob(1, 1000)
	d := h.AddBlob(repo, data)
	for header, c := range map[string]struct {
		status     int
		start, end int
	}{
		"bytes=0-9":        {206, 0, 10},
		"bytes=10-":        {206, 10, 1000},
		"bytes=-5":         {206, 995, 1000},
		"bytes=-5000":      {206, 0, 1000},
		"bytes=900-5000":   {206, 900, 1000},
		"bytes=1000-":      {416, 0, 0},
		"bytes=-0":         {416, 0, 0},
		"bytes=500-0":      {200, 0, 1000},
		"bytes=abc":        {200, 0, 1000},
		"items=0-5":        {200, 0, 1000},
		"bytes=0-1,4-5":    {200, 0, 1000},
		"bytes=0-99999999": {206, 0, 1000},
	} {
		r := do(t, h, "GET", h.RegistryURL()+blobURL(d), "Range: "+header)
		if !r.is(c.status) || !bytes.Equal(r.body, data[c.start:c.end]) {
			t.Errorf("%s: %v", header, r)
			continue
		}
		want := ""
		switch c.status {
		case 206:
			want = fmt.Sprintf("bytes %d-%d/1000", c.start, c.end-1)
		case 416:
			want = "bytes */1000"
		}
		if got := r.Header.Get("Content-Range"); got != want {
			t.Errorf("%s: Content-Range %q", header, got)
		}
	}
	if r := do(t, h, "GET", h.RegistryURL()+blobURL(d), "Range: bytes=5-", `If-Range: "other"`); !r.is(200) || len(r.body) != 1000 {
		t.Errorf("If-Range: %v", r)
	}
}

func TestSignedURLs(t *testing.T) {
	var mu sync.Mutex
	now := time.Now()
	h := Start(t, Options{Anonymous: true, BlobURLTTL: time.Minute, Clock: func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		return now
	}})
	d := h.AddBlob(repo, []byte("content"))
	signed := h.signedURL(d)
	if r := do(t, h, "GET", signed); !r.is(200) {
		t.Errorf("signed: %v", r)
	}
	if r := do(t, h, "GET", signed, "Authorization: Bearer x"); !r.is(400) || h.AuthorizationLeaks() != 1 {
		t.Errorf("with a token: %v, %d leaks", r, h.AuthorizationLeaks())
	}
	if r := do(t, h, "GET", signed+"0"); !r.is(403) {
		t.Errorf("wrong signature: %v", r)
	}
	mu.Lock()
	now = now.Add(time.Minute)
	mu.Unlock()
	if r := do(t, h, "GET", signed); !r.is(403) {
		t.Errorf("expired: %v", r)
	}
}

func TestTags(t *testing.T) {
	h := Start(t, Options{})
	for _, tag := range []string{"c", "a", "b"} {
		h.Image(repo, tag)
	}
	for query, c := range map[string]struct{ tags, link string }{
		"":             {"a b c", ""},
		"?n=2":         {"a b", `</v2/library/demo/tags/list?last=b&n=2>; rel="next"`},
		"?n=2&last=b":  {"c", ""},
		"?n=0":         {"", ""},
		"?last=aa":     {"b c", ""},
		"?n=3":         {"a b c", ""},
		"?n=9&last=zz": {"", ""},
	} {
		var doc struct {
			Name string
			Tags []string
		}
		r := get(t, h, "/v2/"+repo+"/tags/list"+query)
		if err := json.Unmarshal(r.body, &doc); err != nil || doc.Name != repo || doc.Tags == nil ||
			strings.Join(doc.Tags, " ") != c.tags || r.Header.Get("Link") != c.link {
			t.Errorf("%q: %v %s", query, r, r.body)
		}
	}
	h.Set(func(o *Options) { o.PageSize = 2 })
	if r := get(t, h, "/v2/"+repo+"/tags/list?n=3"); r.Header.Get("Link") != `</v2/library/demo/tags/list?last=b&n=2>; rel="next"` {
		t.Errorf("the first of two pages: %v %s", r, r.body)
	}
	if r := get(t, h, "/v2/"+repo+"/tags/list?n=-1"); !r.is(400) {
		t.Errorf("n=-1: %v", r)
	}
}

func TestReferrers(t *testing.T) {
	h := Start(t, Options{})
	img := h.Image(repo, "latest")
	for _, kind := range []string{"test/sbom", "test/signature"} {
		h.AddManifest(repo, "", ocispec.MediaTypeImageManifest, encode(ocispec.Manifest{ArtifactType: kind, Subject: &img.Manifest}))
	}
	url := "/v2/" + repo + "/referrers/"
	for path, want := range map[string]int{
		url + img.Manifest.Digest.String():                             2,
		url + img.Manifest.Digest.String() + "?artifactType=test/sbom": 1,
		url + digest.FromString("other").String():                      0,
	} {
		var index ocispec.Index
		r := get(t, h, path)
		if err := json.Unmarshal(r.body, &index); err != nil || index.Manifests == nil || len(index.Manifests) != want ||
			r.Header.Get("Content-Type") != ocispec.MediaTypeImageIndex ||
			(r.Header.Get("Oci-Filters-Applied") == "artifactType") != strings.Contains(path, "?") {
			t.Errorf("%s: %v %s", path, r, r.body)
		}
	}
	h.Set(func(o *Options) { o.PageSize = 1 })
	if r := get(t, h, url+img.Manifest.Digest.String()); strings.Count(string(r.body), "test/") != 1 || !strings.HasPrefix(r.Header.Get("Link"), "<"+url) {
		t.Errorf("the first of two pages: %v %s", r, r.body)
	}
	h.Set(func(o *Options) { o.NoReferrers = true })
	if r := get(t, h, url+img.Manifest.Digest.String()); !r.is(404) {
		t.Errorf("switched off: %v", r)
	}
}

func TestTokenRules(t *testing.T) {
	for name, opaque := range map[string]bool{"JWT": false, "opaque": true} {
		t.Run(name, func(t *testing.T) {
			h := Start(t, Options{Users: map[string]string{"ann": "secret", "bob": "hidden"}, OpaqueTokens: opaque})
			h.Image(repo, "latest")
			h.Image("team/app", "latest")
			h.SetPrivate("team/app", "ann")
			private := h.RegistryURL() + "/v2/team/app/manifests/latest"
			token := func(method, query string, headers ...string) (reply, string) {
				r := do(t, h, method, h.TokenURL()+"/token?"+query, headers...)
				var doc struct{ Token string }
				json.Unmarshal(r.body, &doc)
				return r, "Authorization: Bearer " + doc.Token
			}
			const scope = "service=registry.docker.io&scope=repository:team/app:pull&scope=repository:library/demo:pull,push"
			for who, c := range map[string]struct {
				login  string
				status int
			}{
				"ann": {"ann:secret", 200}, "bob": {"bob:hidden", 401}, "nobody": {"", 401},
			} {
				var headers []string
				if c.login != "" {
					r, _ := http.NewRequest("GET", "/", nil)
					user, password, _ := strings.Cut(c.login, ":")
					r.SetBasicAuth(user, password)
					headers = []string{"Authorization: " + r.Header.Get("Authorization")}
				}
				answer, auth := token("GET", scope, headers...)
				if !answer.is(200) {
					t.Errorf("%s: no token: %v", who, answer)
				}
				r := do(t, h, "GET", private, auth)
				if !r.is(c.status) || (c.status == 401) != strings.Contains(r.Header.Get("Www-Authenticate"), `error="insufficient_scope"`) {
					t.Errorf("%s, private: %v", who, r)
				}
				if r := do(t, h, "GET", h.RegistryURL()+manifestURL("latest"), auth); !r.is(200) {
					t.Errorf("%s, second scope: %v", who, r)
				}
			}
			if r, _ := token("GET", scope, "Authorization: Basic YW5uOndyb25n"); !r.is(401) {
				t.Errorf("wrong password: %v", r)
			}
			if _, auth := token("GET", "service=other&scope=repository:library/demo:pull"); !do(t, h, "GET", h.RegistryURL()+manifestURL("latest"), auth).is(401) {
				t.Error("a token for another service is accepted")
			}
			h.SetPublic("team/app")
			if r := do(t, h, "GET", private, "Authorization: Bearer "+h.Token("", "team/app")); !r.is(200) {
				t.Errorf("public again: %v", r)
			}
			old := h.Token("", repo)
			h.RevokeTokens()
			if r := do(t, h, "GET", h.RegistryURL()+manifestURL("latest"), "Authorization: Bearer "+old); !r.is(401) {
				t.Errorf("revoked: %v", r)
			}
		})
	}
}

func TestTokenByPost(t *testing.T) {
	h := Start(t, Options{Users: map[string]string{"ann": "secret"}})
	h.Image("team/app", "latest")
	h.SetPrivate("team/app", "ann")
	post := func(form url.Values) (status int, access, refresh string) {
		form.Set("service", service)
		form.Set("scope", "repository:team/app:pull")
		resp, err := h.Client().PostForm(h.TokenURL()+"/token", form)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var doc struct{ Access_token, Refresh_token string }
		json.NewDecoder(resp.Body).Decode(&doc)
		return resp.StatusCode, doc.Access_token, doc.Refresh_token
	}
	status, token, refresh := post(url.Values{"grant_type": {"password"}, "username": {"ann"}, "password": {"secret"}, "access_type": {"offline"}})
	if status != 200 || refresh == "" {
		t.Fatalf("password grant: %d", status)
	}
	status, second, _ := post(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}})
	if status != 200 {
		t.Fatalf("refresh grant: %d", status)
	}
	for _, tok := range []string{token, second} {
		if r := do(t, h, "GET", h.RegistryURL()+"/v2/team/app/manifests/latest", "Authorization: Bearer "+tok); !r.is(200) {
			t.Errorf("manifest: %v", r)
		}
	}
	if status, _, _ := post(url.Values{"grant_type": {"password"}, "username": {"ann"}, "password": {"wrong"}}); status != 401 {
		t.Errorf("wrong password: %d", status)
	}
}

func TestTokenExpiry(t *testing.T) {
	start := time.Now()
	h := Start(t, Options{TokenTTL: time.Minute, Clock: func() time.Time { return start }})
	h.Image(repo, "latest")
	auth := "Authorization: Bearer " + h.Token("", repo)
	if r := do(t, h, "GET", h.RegistryURL()+manifestURL("latest"), auth); !r.is(200) {
		t.Errorf("fresh: %v", r)
	}
	h.Set(func(o *Options) { o.Clock = func() time.Time { return start.Add(61 * time.Second) } })
	r := do(t, h, "GET", h.RegistryURL()+manifestURL("latest"), auth)
	if !r.is(401) || !strings.Contains(r.Header.Get("Www-Authenticate"), `error="invalid_token"`) {
		t.Errorf("expired: %v", r)
	}
}

func TestRateLimit(t *testing.T) {
	start := time.Now()
	h := Start(t, Options{RateLimit: 2, RetryAfter: 7 * time.Second, Users: map[string]string{"ann": "secret"}, Clock: func() time.Time { return start }})
	h.Image(repo, "latest")
	anonymous, ann := "Authorization: Bearer "+h.Token("", repo), "Authorization: Bearer "+h.Token("ann", repo)
	check := func(method, ref, auth string, status int, remaining string) {
		t.Helper()
		r := do(t, h, method, h.RegistryURL()+manifestURL(ref), auth)
		if !r.is(status) || r.Header.Get("Ratelimit-Remaining") != remaining {
			t.Errorf("want %d and %q: %v", status, remaining, r)
		}
		if status == 429 && (r.code() != "TOOMANYREQUESTS" || r.Header.Get("Retry-After") != "7" || !strings.Contains(string(r.body), "You have reached your unauthenticated pull rate limit")) {
			t.Errorf("429: %v %s", r, r.body)
		}
		if remaining != "" && (r.Header.Get("Ratelimit-Limit") != "2;w=21600" || r.Header.Get("Docker-Ratelimit-Source") != "127.0.0.1") {
			t.Errorf("headers: %v", r)
		}
	}
	check("HEAD", "latest", anonymous, 200, "2;w=21600")
	check("GET", "nope", anonymous, 404, "2;w=21600")
	check("GET", "latest", anonymous, 200, "1;w=21600")
	check("GET", "latest", anonymous, 200, "0;w=21600")
	check("GET", "latest", anonymous, 429, "0;w=21600")
	check("HEAD", "latest", anonymous, 200, "0;w=21600")
	check("GET", "latest", ann, 200, "")
	h.ResetRateLimit()
	check("GET", "latest", anonymous, 200, "1;w=21600")
	h.Set(func(o *Options) { o.Clock = func() time.Time { return start.Add(window) } })
	anonymous = "Authorization: Bearer " + h.Token("", repo)
	check("HEAD", "latest", anonymous, 200, "2;w=21600")
}

func TestDownUp(t *testing.T) {
	for name, options := range modes {
		t.Run(name, func(t *testing.T) {
			h := Start(t, options)
			h.Set(func(o *Options) { o.Anonymous = true })
			h.Image(repo, "latest")
			url := h.RegistryURL() + manifestURL("latest")
			d := h.AddBlob(repo, RandomBlob(1, 1<<20))
			h.Script(Once(&Fault{StallAt: At(1000)}, OfKind(KindCDN)))
			hanging, err := h.Client().Get(h.RegistryURL() + blobURL(d))
			if err != nil {
				t.Fatal(err)
			}
			defer hanging.Body.Close()
			h.Down()
			if _, err := io.ReadAll(hanging.Body); err == nil {
				t.Error("an open connection survived Down")
			}
			if r := do(t, h, "GET", url); r.err == nil {
				t.Errorf("down: %v", r)
			}
			h.Up()
			if r := do(t, h, "GET", url); !r.is(200) {
				t.Errorf("up again: %v", r)
			}
			h.Down(RoleCDN)
			if r := do(t, h, "GET", url); !r.is(200) {
				t.Errorf("the registry while the CDN is down: %v", r)
			}
			if r := do(t, h, "GET", h.CDNURL()); r.err == nil {
				t.Errorf("the CDN while it is down: %v", r)
			}
			h.Up(RoleCDN)
			if r := do(t, h, "GET", h.RegistryURL()+blobURL(d)); !r.is(200) {
				t.Errorf("the CDN after it was down: %v", r)
			}
		})
	}
}

func TestListenAndUnknownHost(t *testing.T) {
	var addrs []string
	h := Start(t, Options{Names: Names{Registry: []string{"registry.test"}, Token: "auth.test", CDN: "cdn.test"}, TLS: true, Listen: func(network, addr string) (net.Listener, error) {
		addrs = append(addrs, addr)
		return net.Listen(network, addr)
	}})
	if !slices.Equal(addrs, []string{"127.0.0.1:0"}) {
		t.Errorf("listened on %q", addrs)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(h.CAPEM()) {
		t.Fatal("no CA")
	}
	for _, name := range []string{"registry.test", "auth.test", "cdn.test", "127.0.0.1", "localhost"} {
		c, err := tls.Dial("tcp", h.Addr(RoleRegistry).String(), &tls.Config{RootCAs: pool, ServerName: name})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		c.Close()
	}
	r, _ := http.NewRequest("GET", h.RegistryURL()+"/v2/", nil)
	r.Host = "elsewhere.test"
	resp, err := h.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusMisdirectedRequest {
		t.Errorf("another host name: %s", resp.Status)
	}
}

func TestLog(t *testing.T) {
	h := Start(t, Options{})
	d := h.AddBlob(repo, RandomBlob(1, 100))
	get(t, h, blobURL(d), "Range: bytes=40-", "User-Agent: test/1")
	log := h.Log()
	if len(log) != 2 {
		t.Fatalf("%d entries", len(log))
	}
	first, second := log[0], log[1]
	if first.Kind != KindBlob || first.Repo != repo || first.Reference != d.String() || first.Method != "GET" || first.Status != 307 ||
		first.UserAgent != "test/1" || !strings.HasPrefix(first.Authorization, "Bearer ") || first.RemoteAddr == "" || first.Time.IsZero() {
		t.Errorf("registry: %+v", first)
	}
	if second.Role != RoleCDN || second.Kind != KindCDN || second.Reference != d.String() || second.Range != "bytes=40-" || second.Offset != 40 ||
		second.Status != 206 || second.Sent != 60 || second.Authorization != "" || second.Seq != 2 {
		t.Errorf("CDN: %+v", second)
	}
	if n := h.Count(OfRole(RoleRegistry, RoleCDN), OfMethod("GET"), Not(OfRepo("other"))); n != 2 {
		t.Errorf("counted %d", n)
	}
	h.Reset()
	if h.Count() != 0 || h.BytesSent(d) != 0 {
		t.Error("Reset left something")
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	before := runtime.NumGoroutine()
	for _, options := range modes {
		h, err := New(options)
		if err != nil {
			t.Fatal(err)
		}
		h.Set(func(o *Options) { o.Anonymous = true })
		d := h.AddBlob(repo, RandomBlob(1, 1<<20))
		faults := []*Fault{{StallAt: At(100)}, {Delay: time.Hour}, {ExtraLength: 5, StallAt: At(200)}, {Endless: true}, {Rate: 10}, {BodyDelay: time.Hour}}
		for _, f := range faults {
			h.Script(Once(f, OfKind(KindCDN)))
			go func() {
				if resp, err := h.Client().Get(h.RegistryURL() + blobURL(d)); err == nil {
					io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
			}()
			for h.Count(OfKind(KindCDN)) == 0 {
				time.Sleep(time.Millisecond)
			}
			h.Reset()
		}
		for range 2 {
			if err := h.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for end := time.Now().Add(patience); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("%d goroutines before, %d after\n%s", before, runtime.NumGoroutine(), stacks[:runtime.Stack(stacks, true)])
		}
	}
}
