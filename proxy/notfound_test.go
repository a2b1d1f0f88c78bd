package proxy_test

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/e2e/fakehub"
	"hubcap/proxy/upstream"
)

// TestNamesThatDoNotExist requests 10,000 of them within a minute, as one client,
// which can still pull what is cached. Another client is not limited.
func TestNamesThatDoNotExist(t *testing.T) {
	t.Parallel()
	perMinute, many := 100, 10_000
	if testing.Short() {
		many = 2000
	}
	r := newRig(t, rigOptions{notFoundLimit: perMinute, proxies: loopback})
	held := r.hub.Image("library/held", "v1", fakehub.RandomBlob(800, 1000), fakehub.RandomBlob(801, 1000))
	underWay := held.Layers[1].Digest // is in a manifest that was pulled, and not requested yet
	r.get("/v2/held/manifests/v1").want(t, 200, nil, "")
	r.get(blobPath("held", held.Layers[0].Digest)).want(t, 200, nil, "")
	r.settle()
	r.hub.Reset()

	as := func(client, path string) reply { return r.get(path, "X-Forwarded-For", client) }
	var refused int
	for i := range many {
		r.clock.Advance(time.Minute / time.Duration(many))
		path := fmt.Sprintf("/v2/made-up/name-%d/manifests/v%d", i, i)
		switch i % 4 {
		case 1:
			path = blobPath(fmt.Sprintf("made-up/name-%d", i), digest.FromString(path))
		case 2:
			path = fmt.Sprintf("/v2/made-up/name-%d/manifests/%s", i, digest.FromString(path))
		case 3:
			path = "/v2/held/manifests/made-up-" + strconv.Itoa(i)
		}
		got := as("127.0.0.7", path)
		switch {
		case got.StatusCode == http.StatusTooManyRequests && got.code() == "TOOMANYREQUESTS" && got.Header.Get("Retry-After") == "1":
			refused++
		case got.StatusCode != http.StatusNotFound:
			t.Fatalf("%s: status %d %s, Retry-After %q", path, got.StatusCode, got.code(), got.Header.Get("Retry-After"))
		}
	}
	asked := r.hub.Count(fakehub.Not(fakehub.OfKind(fakehub.KindToken)), fakehub.Not(fakehub.OfStatus(401)))
	if most := 2*perMinute + 1; asked > most || asked+refused != many {
		t.Errorf("%d of %d requests went to registries, want at most %d; %d were refused", asked, many, most, refused)
	}
	if n := r.metric(`hubcap_client_limits_total{limit="not_found"}`); n != strconv.Itoa(refused) {
		t.Errorf("%s are counted, want %d", n, refused)
	}

	// The client is over the limit now.
	r.hub.Image("library/other", "v1", fakehub.RandomBlob(802, 1000))
	r.hub.Reset()
	as("127.0.0.7", "/v2/other/manifests/v1").want(t, 429, nil, "")
	as("127.0.0.7", "/v2/held/tags/list").want(t, 429, nil, "")
	as("127.0.0.7", blobPath("held", digest.FromString("no such blob"))).want(t, 429, nil, "")
	if n := len(r.hub.Log()); n != 0 {
		t.Errorf("%d requests upstream for a client that is over the limit", n)
	}
	as("127.0.0.7", "/v2/held/manifests/v1").want(t, 200, held.Body, "hubcap; fwd=stale; fwd-status=200") // a minute has passed
	as("127.0.0.7", "/v2/held/manifests/v1").want(t, 200, held.Body, "hubcap; hit")
	as("127.0.0.7", "/v2/held/manifests/"+held.Manifest.Digest.String()).want(t, 200, held.Body, "hubcap; hit")
	as("127.0.0.7", blobPath("held", held.Layers[0].Digest)).want(t, 200, nil, "hubcap; hit")
	as("127.0.0.7", blobPath("held", underWay)).want(t, 200, nil, "hubcap; fwd=uri-miss; stored")
	as("127.0.0.8", "/v2/other/manifests/v1").want(t, 200, nil, "hubcap; fwd=uri-miss; stored")

	// The limit ends after the Retry-After of the 429.
	r.clock.Advance(time.Second)
	as("127.0.0.7", "/v2/made-up/again/manifests/v1").want(t, 404, nil, "")
}

// TestManyQuestionsAtOneTime: a client exceeds the limit by the requests that run
// at the same time, and waits longer for that.
func TestManyQuestionsAtOneTime(t *testing.T) {
	const perMinute, atOnce = 64, 32
	r := newRig(t, rigOptions{notFoundLimit: perMinute})
	var all sync.WaitGroup
	for i := range atOnce {
		all.Go(func() {
			for n := range 4 {
				if _, err := r.try(context.Background(), http.MethodGet, fmt.Sprintf("/v2/made-up/name-%d-%d/manifests/v1", i, n)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	asked := r.manifestRequests(http.MethodGet)
	if asked > perMinute+atOnce {
		t.Errorf("asked %d times, want %d at most", asked, perMinute+atOnce)
	}
	got := r.get("/v2/made-up/name/manifests/v1")
	got.want(t, 429, nil, "")
	wait, err := strconv.Atoi(got.Header.Get("Retry-After"))
	must(t, err)
	if debt := time.Duration(asked-perMinute+1) * time.Minute / perMinute; time.Duration(wait-1)*time.Second > debt || time.Duration(wait)*time.Second < debt {
		t.Errorf("Retry-After %d, want %v", wait, debt)
	}
}

// TestColdPullsCostNothing pulls large uncached images from many machines behind
// one gateway, under the smallest limit that can be set.
func TestColdPullsCostNothing(t *testing.T) {
	const images, layers, machines = 8, 20, 8
	r := newRig(t, rigOptions{notFoundLimit: 32})
	var paths [images][]string
	for i := range images {
		name := fmt.Sprintf("library/image-%d", i)
		var content [][]byte
		for n := range layers {
			content = append(content, fakehub.RandomBlob(uint64(1000+i*layers+n), 1000))
		}
		image := r.hub.Image(name, "v1", content...)
		index := r.hub.Index(name, "latest", image.Manifest)
		paths[i] = []string{"/v2/" + name + "/manifests/latest", "/v2/" + name + "/manifests/" + index.Digest.String(), "/v2/" + name + "/manifests/" + image.Manifest.Digest.String(), blobPath(name, image.Config.Digest)}
		for _, layer := range image.Layers {
			paths[i] = append(paths[i], blobPath(name, layer.Digest))
		}
	}
	var all sync.WaitGroup
	for machine := range machines {
		all.Go(func() {
			for i := range images {
				pull := paths[(i+machine)%images]
				for n, path := range pull {
					method := http.MethodGet
					if n == 0 {
						method = http.MethodHead
					}
					if got, err := r.try(context.Background(), method, path); err != nil || got.StatusCode != http.StatusOK {
						t.Errorf("%s %s: %v %v", method, path, got.Response, err)
					}
				}
			}
		})
	}
	all.Wait()
	if n := r.metric(`hubcap_client_limits_total{limit="not_found"}`); n != "0" {
		t.Errorf("%s answers met the limit", n)
	}
}

// TestTokensThatOpenNothing: the limit holds for client tokens that the registry
// refuses, too.
func TestTokensThatOpenNothing(t *testing.T) {
	const perMinute = 32
	hub := fakehub.Start(t, fakehub.Options{Users: map[string]string{boxUser: boxPassword}})
	hub.Image("owner/secret", "v1", fakehub.RandomBlob(700, 1000))
	hub.SetPrivate("owner/secret", boxUser)
	r := newRig(t, rigOptions{hub: hub, notFoundLimit: perMinute, rules: upstream.Rules{Visibility: upstream.Passthrough}})
	for i := range 10 * perMinute {
		got := r.do(http.MethodGet, r.login+"/v2/owner/secret/manifests/v1", "Authorization", fmt.Sprintf("Bearer made-up-%d", i))
		if got.StatusCode != 401 && got.StatusCode != 403 && got.StatusCode != 429 {
			t.Fatalf("status %d", got.StatusCode)
		}
	}
	if n := r.hub.Count(fakehub.OfKind(fakehub.KindManifest)); n > perMinute {
		t.Errorf("the registry was asked %d times, want %d at most", n, perMinute)
	}
}
