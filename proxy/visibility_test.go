package proxy_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hubcap/e2e/fakehub"
	"hubcap/proxy/upstream"
)

// tries is how often each way to what is not for everybody is tried.
func tries() int {
	switch {
	case os.Getenv("TEST_VISIBILITY") == "full":
		return 10_000
	case testing.Short():
		return 16
	default:
		return 100
	}
}

const boxUser, boxPassword = "box", "canary-4711"

// newSharing is a hub with a private repository, and a hubcap that shares it.
func newSharing(t *testing.T, dir string, rules upstream.Rules) (*rig, fakehub.Image) {
	t.Helper()
	hub := fakehub.Start(t, fakehub.Options{Users: map[string]string{boxUser: boxPassword}})
	secret := hub.Image("owner/secret", "v1", fakehub.RandomBlob(700, 300*kib), fakehub.RandomBlob(701, 2*mib))
	markLists(t, hub, secret)
	hub.SetPrivate("owner/secret", boxUser)
	hub.Image("owner/public", "v1", fakehub.RandomBlob(702, 1000))
	hub.Image("owner/second", "v1", fakehub.RandomBlob(703, 1000))
	hub.SetPrivate("owner/second", boxUser)
	return newRig(t, rigOptions{dir: dir, hub: hub, user: boxUser, password: boxPassword, rules: rules}), secret
}

var shared = upstream.Rules{Visibility: upstream.Shared, SharedRepositories: []string{"owner/secret", "owner/second"}}

// pull gets all of an image.
func (r *rig) pull(t *testing.T, repository string, img fakehub.Image) {
	t.Helper()
	r.get("/v2/"+repository+"/manifests/v1").want(t, 200, img.Body, "")
	for _, layer := range append(img.Layers, img.Config) {
		if got := r.get(blobPath(repository, layer.Digest)); got.StatusCode != 200 || digest.FromBytes(got.body) != layer.Digest {
			t.Fatalf("%s: %d, %d bytes", layer.Digest, got.StatusCode, len(got.body))
		}
	}
	r.settle()
}

// hiddenMark is in the lists of a private repository, and nowhere else.
const hiddenMark = "hidden-mark"

// markLists gives the lists of a private repository what they are known by.
func markLists(t *testing.T, hub *fakehub.Hub, img fakehub.Image) {
	hub.SetTag("owner/secret", hiddenMark, img.Manifest.Digest)
	refer(t, hub, "owner/secret", "test/"+hiddenMark, img.Manifest)
}

// list gets the lists of the private repository, as one who may.
func (r *rig) list(t *testing.T, base string, img fakehub.Image, cacheStatus string, header ...string) {
	t.Helper()
	for _, path := range []string{"/tags/list", "/referrers/" + img.Manifest.Digest.String()} {
		got := r.get(base+"/v2/owner/secret"+path, header...)
		got.want(t, 200, nil, cacheStatus)
		if !bytes.Contains(got.body, []byte(hiddenMark)) {
			t.Errorf("%s: %s", path, got.body)
		}
	}
}

// ways are all ways to an image by another repository's name.
func ways(repository string, img fakehub.Image) map[string][2]string {
	layer := img.Layers[len(img.Layers)-1].Digest
	return map[string][2]string{
		"tag":              {http.MethodGet, "/v2/" + repository + "/manifests/secret"},
		"manifest":         {http.MethodGet, "/v2/" + repository + "/manifests/" + img.Manifest.Digest.String()},
		"HEAD of manifest": {http.MethodHead, "/v2/" + repository + "/manifests/" + img.Manifest.Digest.String()},
		"manifest as blob": {http.MethodGet, blobPath(repository, img.Manifest.Digest)},
		"config":           {http.MethodGet, blobPath(repository, img.Config.Digest)},
		"layer":            {http.MethodGet, blobPath(repository, layer)},
		"range of layer":   {http.MethodGet, blobPath(repository, layer) + "#range"},
		"HEAD of layer":    {http.MethodHead, blobPath(repository, layer)},
		"referrers":        {http.MethodGet, "/v2/" + repository + "/referrers/" + img.Manifest.Digest.String()},
		"tags":             {http.MethodGet, "/v2/" + repository + "/tags/list"},
		"tags as manifest": {http.MethodGet, "/v2/" + repository + "/manifests/" + secretTags.String()},
		"tags as blob":     {http.MethodGet, blobPath(repository, secretTags)},
	}
}

// secretTags is the list of the private repository's tags, as it is kept.
var secretTags = digest.FromString(`["` + hiddenMark + `","v1"]`)

// checkHidden tries all ways, often, and is answered none.
func (r *rig) checkHidden(t *testing.T, base, repository string, img fakehub.Image, header ...string) {
	t.Helper()
	for name, way := range ways(repository, img) {
		path, isRange := strings.CutSuffix(way[1], "#range")
		head := header
		if isRange {
			head = append([]string{"Range", "bytes=10-99"}, header...)
		}
		var all sync.WaitGroup
		for range 16 {
			all.Go(func() {
				for range tries() / 16 {
					got, err := r.try(context.Background(), way[0], base+path, head...)
					if err != nil || got.StatusCode < 400 && name != "tags" && name != "referrers" || leaks(got.body, img) {
						t.Errorf("%s: %s: %d %.80q %v", repository, name, got.StatusCode, got.body, err)
						return
					}
				}
			})
		}
		all.Wait()
	}
}

// leaks tells whether a body holds something of an image.
func leaks(body []byte, img fakehub.Image) bool {
	return bytes.Contains(body, []byte(img.Layers[0].Digest)) || bytes.Contains(body, []byte(hiddenMark)) || len(body) > 1000
}

// TestSharedContentStaysInItsRepository shows what the box's credentials open
// through the shared repository, and through no other.
func TestSharedContentStaysInItsRepository(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r, secret := newSharing(t, dir, shared)
	hub := r.hub
	r.pull(t, "owner/secret", secret)
	r.list(t, "", secret, "hubcap; fwd=uri-miss; stored")
	r.settle()
	if _, held := r.cache.Manifest(secretTags); !held {
		t.Error("the tags are not kept as they are thought to be")
	}
	again := func(rules upstream.Rules) {
		r.stop()
		r = newRig(t, rigOptions{dir: dir, hub: hub, user: boxUser, password: boxPassword, rules: rules})
	}
	check := func(when string) {
		t.Helper()
		for _, repository := range []string{"owner/public", "owner/second", "owner/nothing", "ghcr.io/owner/secret", "ghcr.io/owner/other"} {
			r.checkHidden(t, r.url, repository, secret)
		}
		before := hub.Count(fakehub.OfKind(fakehub.KindCDN))
		r.pull(t, "owner/secret", secret)
		if n := hub.Count(fakehub.OfKind(fakehub.KindCDN)) - before; n != 0 {
			t.Errorf("%s: %d layers came again", when, n)
		}
		r.list(t, "", secret, "hubcap; hit")
	}
	check("held")
	again(shared)
	check("after a restart")

	r.stop()
	must(t, os.RemoveAll(filepath.Join(dir, "index")))
	again(shared)
	check("after the loss of the index")

	again(upstream.Rules{})
	r.checkHidden(t, r.url, "owner/secret", secret)
	r.get("/v2/owner/secret/manifests/v1").want(t, 404, nil, "")
	r.get("/v2/owner/secret/tags/list").want(t, 404, nil, "")
}

// TestSharedContentAfterALoss loses all that is known of links: nobody is
// shown anything until the registry has given it again.
func TestSharedContentAfterALoss(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r, secret := newSharing(t, dir, shared)
	hub := r.hub
	r.pull(t, "owner/secret", secret)
	r.stop()
	must(t, os.RemoveAll(filepath.Join(dir, "index")))
	must(t, os.Remove(filepath.Join(dir, "snapshot")))
	r = newRig(t, rigOptions{dir: dir, hub: hub, user: boxUser, password: boxPassword, rules: shared})
	r.checkHidden(t, r.url, "owner/public", secret)
	hub.Down()
	for _, layer := range secret.Layers {
		if got := r.get(blobPath("owner/secret", layer.Digest)); got.StatusCode < 500 {
			t.Errorf("with the registry down: %d", got.StatusCode)
		}
	}
	hub.Up()
	r.pull(t, "owner/secret", secret)
	before := hub.Count(fakehub.OfKind(fakehub.KindCDN))
	r.pull(t, "owner/secret", secret)
	if n := hub.Count(fakehub.OfKind(fakehub.KindCDN)) - before; n != 0 {
		t.Errorf("%d layers came a third time", n)
	}
}

// TestRunningFillIsNotForEverybody asks for a closed layer while it comes in.
func TestRunningFillIsNotForEverybody(t *testing.T) {
	r, secret := newSharing(t, t.TempDir(), shared)
	layer := secret.Layers[1].Digest
	r.hub.Script(fakehub.Always(&fakehub.Fault{StallAt: fakehub.At(mib)}, fakehub.OfKind(fakehub.KindCDN), fakehub.OfReference(layer)))
	ctx, leave := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url+blobPath("owner/secret", layer), nil)
	must(t, err)
	resp, err := r.client.Do(req)
	must(t, err)
	defer resp.Body.Close()
	_, err = io.ReadFull(resp.Body, make([]byte, 100*kib))
	must(t, err)
	r.checkHidden(t, r.url, "owner/public", secret)
	r.checkHidden(t, r.url, "ghcr.io/owner/other", secret)
	leave()
	r.hub.Script(nil)
	r.stop()
}

// TestClosedLayerOnceForAll has many ask for a closed layer before the
// registry has answered the first of them.
func TestClosedLayerOnceForAll(t *testing.T) {
	r, secret := newSharing(t, t.TempDir(), shared)
	layer, answer := secret.Layers[1].Digest, make(chan struct{})
	ofLayer := fakehub.OfReference(layer)
	r.hub.Script(func(q *fakehub.Request) *fakehub.Fault {
		if ofLayer(q) {
			<-answer
		}
		return nil
	})
	const readers = 20
	var all sync.WaitGroup
	for range readers {
		all.Go(func() {
			got, err := r.try(context.Background(), http.MethodGet, blobPath("owner/secret", layer))
			if err != nil || digest.FromBytes(got.body) != layer {
				t.Errorf("%d bytes, %v", len(got.body), err)
			}
		})
	}
	heads := func() int { return r.hub.Count(fakehub.OfMethod(http.MethodHead), ofLayer) }
	eventually(t, "all have joined", func() bool { return r.metric("hubcap_fills_joined_total") == "19" || heads() > 0 })
	close(answer)
	all.Wait()
	if got := [2]int{heads(), r.cdn(layer)}; got != [2]int{0, 1} {
		t.Errorf("%v HEADs and GETs, want none and one", got)
	}
}

// TestPublicLayerIsRevealed has a public repository share a layer with a
// private one: an anonymous question moves it, and its bytes come once.
func TestPublicLayerIsRevealed(t *testing.T) {
	r, secret := newSharing(t, t.TempDir(), shared)
	r.pull(t, "owner/secret", secret)
	layer := secret.Layers[1].Digest
	r.hub.AddBlob("owner/public", fakehub.RandomBlob(701, 2*mib))
	r.get(blobPath("owner/public", layer)).want(t, 200, nil, "hubcap; hit")
	r.get(blobPath("owner/nothing", layer)).want(t, 200, nil, "hubcap; hit")
	if n := r.cdn(layer); n != 1 {
		t.Errorf("its bytes came %d times", n)
	}
	r.get(blobPath("owner/public", secret.Layers[0].Digest)).want(t, 404, nil, "")
}

// TestAnotherRegistryProvesNothing has a registry claim to hold what another
// one gives to some.
func TestAnotherRegistryProvesNothing(t *testing.T) {
	hub := fakehub.Start(t, fakehub.Options{Users: map[string]string{boxUser: boxPassword}})
	liar := fakehub.Start(t, fakehub.Options{})
	secret := hub.Image("owner/secret", "v1", fakehub.RandomBlob(710, 300*kib), fakehub.RandomBlob(711, 2*mib))
	hub.SetPrivate("owner/secret", boxUser)
	r := newRig(t, rigOptions{hub: hub, other: liar, user: boxUser, password: boxPassword, rules: shared})
	r.pull(t, "owner/secret", secret)

	lie := fakehub.RandomBlob(712, 2*mib)
	layer := secret.Layers[1].Digest
	liar.AddBlobAs("evil/app", layer, lie)
	for range 3 {
		got := r.get("/v2/ghcr.io" + strings.TrimPrefix(blobPath("evil/app", layer), "/v2"))
		if got.err == nil && len(got.body) == len(lie) || !bytes.HasPrefix(lie, got.body) {
			t.Fatalf("%d: %d bytes, %v", got.StatusCode, len(got.body), got.err)
		}
		got = r.get("/v2/ghcr.io"+strings.TrimPrefix(blobPath("evil/app", layer), "/v2"), "Range", "bytes=10-99")
		if len(got.body) == 0 || !bytes.Contains(lie, got.body) { // the whole, since it was wrong before
			t.Fatalf("a range of another's: %d, %d bytes", got.StatusCode, len(got.body))
		}
	}
	// One that has it gives it, and then it is public.
	liar.AddBlob("honest/app", fakehub.RandomBlob(711, 2*mib))
	liar.DeleteBlob("evil/app", layer)
	if got := r.get("/v2/ghcr.io" + strings.TrimPrefix(blobPath("honest/app", layer), "/v2")); digest.FromBytes(got.body) != layer {
		t.Fatalf("%d: %d bytes, %v", got.StatusCode, len(got.body), got.err)
	}
	r.get(blobPath("owner/nothing", layer)).want(t, 200, nil, "hubcap; hit")
}

// newPassing is a hub with users, and a hubcap that passes their tokens on.
func newPassing(t *testing.T) (*rig, fakehub.Image) {
	t.Helper()
	hub := fakehub.Start(t, fakehub.Options{Users: map[string]string{"alice": "a", "carol": "c", "bob": "b"}})
	secret := hub.Image("owner/secret", "v1", fakehub.RandomBlob(720, 300*kib), fakehub.RandomBlob(721, 2*mib))
	markLists(t, hub, secret)
	hub.SetPrivate("owner/secret", "alice", "carol")
	return newRig(t, rigOptions{hub: hub, rules: upstream.Rules{Visibility: upstream.Passthrough}}), secret
}

// token gets one as a client does: where the challenge says.
func (r *rig) token(t *testing.T, challenge, user, password string) string {
	t.Helper()
	var realm, service, scope string
	for _, part := range strings.Split(strings.TrimPrefix(challenge, "Bearer "), ",") {
		name, value, _ := strings.Cut(part, "=")
		value = strings.Trim(value, `"`)
		switch name {
		case "realm":
			realm = value
		case "service":
			service = value
		case "scope":
			scope = value
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, realm+"?"+url.Values{"service": {service}, "scope": {scope}}.Encode(), nil)
	must(t, err)
	if user != "" {
		req.SetBasicAuth(user, password)
	}
	resp, err := r.client.Do(req)
	must(t, err)
	defer resp.Body.Close()
	var answer struct{ Token string }
	must(t, json.NewDecoder(resp.Body).Decode(&answer))
	return answer.Token
}

// logIn has a client ask, be challenged and get a token.
func (r *rig) logIn(t *testing.T, repository, user, password string) (header []string) {
	t.Helper()
	got := r.get(r.login + "/v2/" + repository + "/manifests/v1")
	challenge := got.Header.Get("Www-Authenticate")
	if got.StatusCode != 401 || got.code() != "UNAUTHORIZED" || !strings.Contains(challenge, fmt.Sprintf("scope=%q", "repository:"+repository+":pull")) {
		t.Fatalf("%d %s, challenge %q", got.StatusCode, got.code(), challenge)
	}
	return []string{"Authorization", "Bearer " + r.token(t, challenge, user, password)}
}

// TestPassthrough gives each client what its own token opens.
func TestPassthrough(t *testing.T) {
	t.Parallel()
	r, secret := newPassing(t)
	at := func(path string) string { return r.login + path }
	layer := secret.Layers[1].Digest
	if got := r.get(at("/v2/")); got.StatusCode != 401 || !strings.HasPrefix(got.Header.Get("Www-Authenticate"), `Bearer realm="`+r.hub.TokenURL()) {
		t.Errorf("ping: %d %v", got.StatusCode, got.Header)
	}
	alice, bob := r.logIn(t, "owner/secret", "alice", "a"), r.logIn(t, "owner/secret", "bob", "b")
	pull := func(who string, header []string) {
		t.Helper()
		r.get(at("/v2/owner/secret/manifests/v1"), header...).want(t, 200, secret.Body, "")
		for _, one := range append(secret.Layers, secret.Config) {
			if got := r.get(at(blobPath("owner/secret", one.Digest)), header...); got.StatusCode != 200 || digest.FromBytes(got.body) != one.Digest {
				t.Fatalf("%s: %d", who, got.StatusCode)
			}
		}
		r.settle()
	}
	pull("alice", alice)
	r.list(t, r.login, secret, "hubcap; fwd=uri-miss; stored", alice...)
	r.list(t, r.login, secret, "hubcap; hit", alice...)
	pull("carol", r.logIn(t, "owner/secret", "carol", "c"))
	if n := r.cdn(layer); n != 1 {
		t.Errorf("a private layer came %d times", n)
	}
	nobody := map[string][]string{
		"bob": bob, "nobody": nil, "a wrong token": {"Authorization", "Bearer x"},
		"a password": {"Authorization", "Basic YWxpY2U6YQ=="}, "alice's for another repository": r.logIn(t, "owner/other", "alice", "a"),
	}
	for who, header := range nobody {
		t.Run(who, func(t *testing.T) {
			r.checkHidden(t, r.login, "owner/secret", secret, header...)
			r.checkHidden(t, r.login, "owner/other", secret, header...)
			if n := r.hub.AuthorizationLeaks(); n != 0 {
				t.Errorf("the CDN saw %d Authorization headers", n)
			}
			r.hub.Reset() // of ten thousand tries the log is most of the memory
		})
	}
	r.checkHidden(t, r.url, "owner/secret", secret, alice...)
	if got := r.get("/v2/owner/secret/manifests/v1", alice...); got.StatusCode != 404 || got.Header.Get("Www-Authenticate") != "" {
		t.Errorf("on the mirror port: %d %v", got.StatusCode, got.Header)
	}

	r.hub.Down()
	r.clock.Advance(2 * time.Minute) // the tag is past its time
	pull("alice, in an outage", alice)
	r.list(t, r.login, secret, "hubcap; fwd=stale; detail=upstream-failed", alice...)
	for who, header := range nobody {
		for _, path := range []string{"/manifests/v1", "/tags/list", "/referrers/" + secret.Manifest.Digest.String()} {
			if got := r.get(at("/v2/owner/secret"+path), header...); got.StatusCode < 400 {
				t.Errorf("%s, in an outage: %s: %d", who, path, got.StatusCode)
			}
		}
	}
	r.clock.Advance(5 * time.Minute)
	for _, path := range []string{"/v2/owner/secret/manifests/v1", "/v2/owner/secret/tags/list", blobPath("owner/secret", layer)} {
		if got := r.get(at(path), alice...); got.StatusCode < 500 {
			t.Errorf("a grant outlives its time: %d", got.StatusCode)
		}
	}
	if n := r.hub.AuthorizationLeaks(); n != 0 {
		t.Errorf("the CDN saw %d Authorization headers", n)
	}
	for _, header := range [][]string{alice, bob} {
		if token := strings.TrimPrefix(header[1], "Bearer "); strings.Contains(r.log.String(), token) {
			t.Error("a token is in the log")
		}
	}
}

// TestForeignRealmIsNotRelayed keeps a registry from having clients' passwords
// sent abroad.
func TestForeignRealmIsNotRelayed(t *testing.T) {
	r, _ := newPassing(t)
	for name, fault := range map[string]*fakehub.Fault{
		"another host": {ForeignRealm: "https://evil.example.com/token"},
		"a password":   {Status: 401, Header: http.Header{"Www-Authenticate": {`Basic realm="x"`}}},
	} {
		t.Run(name, func(t *testing.T) {
			r.hub.Script(fakehub.Always(fault, fakehub.OfRole(fakehub.RoleRegistry)))
			for _, path := range []string{"/v2/", "/v2/owner/secret/manifests/v1"} {
				if got := r.get(r.login + path); got.StatusCode != 403 || got.Header.Get("Www-Authenticate") != "" {
					t.Errorf("%s: %d %v", path, got.StatusCode, got.Header)
				}
			}
		})
	}
}

// TestRelayedRealmNamesNoRepository keeps a registry from getting of a client
// what opens another repository than the one that was asked for.
func TestRelayedRealmNamesNoRepository(t *testing.T) {
	r, _ := newPassing(t)
	r.hub.Script(fakehub.Always(&fakehub.Fault{Status: 401, Header: http.Header{"Www-Authenticate": {
		`Bearer realm="` + r.hub.TokenURL() + `/token?keep=1&scope=repository:victim/x:pull",service="s",scope="repository:victim/x:pull"`,
	}}}, fakehub.OfRole(fakehub.RoleRegistry)))
	want := `Bearer realm="` + r.hub.TokenURL() + `/token?keep=1",service="s",scope="repository:owner/secret:pull"`
	got := r.get(r.login + "/v2/owner/secret/manifests/v1")
	if got.StatusCode != 401 || got.Header.Get("Www-Authenticate") != want {
		t.Errorf("%d %q, want %q", got.StatusCode, got.Header.Get("Www-Authenticate"), want)
	}
}

// TestAllowAndDeny holds for manifests, blobs and lists alike.
func TestAllowAndDeny(t *testing.T) {
	hub := fakehub.Start(t, fakehub.Options{})
	img := hub.Image("library/good", "v1", fakehub.RandomBlob(730, 1000))
	for _, name := range []string{"library/bad", "owner/app"} {
		hub.Image(name, "v1", fakehub.RandomBlob(730, 1000))
	}
	r := newRig(t, rigOptions{hub: hub, rules: upstream.Rules{Allow: []string{"library/*"}, Deny: []string{"library/bad", "**/x"}}})
	r.pull(t, "good", img)
	hub.Reset()
	for _, name := range []string{"bad", "owner/app", "library/x", "a/b/x"} {
		for _, path := range []string{"/manifests/v1", "/blobs/" + img.Layers[0].Digest.String(), "/tags/list", "/referrers/" + img.Manifest.Digest.String()} {
			if got := r.get("/v2/" + name + path); got.StatusCode != 403 || got.code() != "DENIED" {
				t.Errorf("%s%s: %d %s", name, path, got.StatusCode, got.code())
			}
		}
	}
	if n := len(hub.Log()); n != 0 {
		t.Errorf("%d requests upstream", n)
	}
}

// TestClientsBehindAProxy are told apart by the word of a proxy that is
// believed, and of no other.
func TestClientsBehindAProxy(t *testing.T) {
	inside := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	r := newRig(t, rigOptions{clients: inside, proxies: loopback})
	r.hub.Image("owner/app", "v1", fakehub.RandomBlob(740, 1000))
	r.get("/v2/owner/app/manifests/v1", "X-Forwarded-For", "203.0.113.5, 192.0.2.7").want(t, 200, nil, "")
	for _, header := range []string{"203.0.113.5", "192.0.2.7, 203.0.113.5", "192.0.2.7, nonsense", "127.0.0.1"} {
		r.get("/v2/owner/app/manifests/v1", "X-Forwarded-For", header).want(t, 403, nil, "")
	}
	if !strings.Contains(r.log.String(), "client=192.0.2.7\n") {
		t.Error("the log does not name the client")
	}
	r = newRig(t, rigOptions{clients: inside})
	r.get("/v2/", "X-Forwarded-For", "192.0.2.7").want(t, 403, nil, "")
}

// TestRepositoryThatWasPublic is asked for what is held for others, with
// credentials at hand that would open it: it is not public any more.
func TestRepositoryThatWasPublic(t *testing.T) {
	t.Parallel()
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		t.Run(method, func(t *testing.T) {
			r, secret := newSharing(t, t.TempDir(), shared)
			r.pull(t, "owner/secret", secret)
			layer := secret.Layers[1].Digest
			r.hub.AddBlob("owner/public", fakehub.RandomBlob(701, 2*mib))
			r.get("/v2/owner/public/manifests/v1").want(t, 200, nil, "")
			r.hub.SetPrivate("owner/public", boxUser)
			r.hub.RevokeTokens()
			if got := r.do(method, blobPath("owner/public", layer)); got.StatusCode != 404 {
				t.Errorf("%d, %d bytes", got.StatusCode, len(got.body))
			}
			r.checkHidden(t, r.url, "owner/nothing", secret)
		})
	}
}

// TestNamedIsNotHad pulls manifests that name what their repository does not
// have, as registries take them where a layer has an address of its own.
func TestNamedIsNotHad(t *testing.T) {
	t.Parallel()
	naming := func(r *rig, repository string, secret fakehub.Image) {
		foreign := func(d ocispec.Descriptor) ocispec.Descriptor {
			d.URLs = []string{"https://elsewhere.example.com/"}
			return d
		}
		own := r.hub.Image(repository, "own", fakehub.RandomBlob(750, 1000))
		body, err := json.Marshal(ocispec.Manifest{
			MediaType: ocispec.MediaTypeImageManifest, Config: own.Config,
			Layers: []ocispec.Descriptor{foreign(secret.Config), foreign(secret.Layers[0]), foreign(secret.Layers[1])},
		})
		must(t, err)
		r.hub.AddManifest(repository, "v1", ocispec.MediaTypeImageManifest, body)
		r.hub.Index(repository, "index", secret.Manifest)
	}
	t.Run("shared", func(t *testing.T) {
		r, secret := newSharing(t, t.TempDir(), shared)
		naming(r, "owner/second", secret)
		r.pull(t, "owner/secret", secret)
		r.get(blobPath("owner/secret", secret.Config.Digest)).want(t, 200, nil, "")
		for _, tag := range []string{"v1", "index"} {
			r.get("/v2/owner/second/manifests/"+tag).want(t, 200, nil, "")
		}
		r.checkHidden(t, r.url, "owner/second", secret)
	})
	t.Run("own", func(t *testing.T) {
		r, secret := newPassing(t)
		naming(r, "owner/bobs", secret)
		r.hub.SetPrivate("owner/bobs", "bob")
		alice, bob := r.logIn(t, "owner/secret", "alice", "a"), r.logIn(t, "owner/bobs", "bob", "b")
		for _, one := range append(secret.Layers, secret.Config) {
			r.get(r.login+blobPath("owner/secret", one.Digest), alice...).want(t, 200, nil, "")
		}
		r.get(r.login+"/v2/owner/secret/manifests/v1", alice...).want(t, 200, nil, "")
		for _, tag := range []string{"v1", "index"} {
			r.get(r.login+"/v2/owner/bobs/manifests/"+tag, bob...).want(t, 200, nil, "")
		}
		r.checkHidden(t, r.login, "owner/bobs", secret, bob...)
	})
}

// TestListingIsNotPulling has a registry let clients see a repository's tags
// who may not pull from it.
func TestListingIsNotPulling(t *testing.T) {
	refused := func(authorization string, kinds ...fakehub.Kind) fakehub.Script {
		return fakehub.Always(&fakehub.Fault{Status: 403}, fakehub.OfKind(kinds...),
			func(q *fakehub.Request) bool { return q.Repo == "owner/secret" && q.Authorization == authorization })
	}
	t.Run("with the client's token", func(t *testing.T) {
		r, secret := newPassing(t)
		alice, carol := r.logIn(t, "owner/secret", "alice", "a"), r.logIn(t, "owner/secret", "carol", "c")
		r.get(r.login+"/v2/owner/secret/manifests/v1", alice...).want(t, 200, secret.Body, "")
		for _, one := range secret.Layers {
			r.get(r.login+blobPath("owner/secret", one.Digest), alice...).want(t, 200, nil, "")
		}
		r.get(r.login+"/v2/owner/secret/tags/list", alice...).want(t, 200, nil, "")
		r.hub.Script(refused(carol[1], fakehub.KindManifest, fakehub.KindBlob))
		r.get(r.login+"/v2/owner/secret/tags/list", carol...).want(t, 200, nil, "hubcap; fwd=bypass")
		r.hub.Script(refused(carol[1], fakehub.KindManifest, fakehub.KindBlob, fakehub.KindTags, fakehub.KindReferrers))
		r.checkHidden(t, r.login, "owner/secret", secret, carol...)
	})
	t.Run("with the box's credentials", func(t *testing.T) {
		r, secret := newSharing(t, t.TempDir(), upstream.Rules{})
		r.hub.Script(fakehub.Always(&fakehub.Fault{
			Status: 200, Header: http.Header{"Content-Type": {"application/json"}}, Body: []byte(`{"name":"owner/secret","tags":["v1"]}`),
		}, fakehub.OfKind(fakehub.KindTags)))
		r.get("/v2/owner/secret/tags/list").want(t, 200, nil, "")
		r.checkHidden(t, r.url, "owner/secret", secret)
	})
}
