package e2e

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"hubcap/e2e/fakehub"
)

// elsewhere is a second address of the box. Who connects to it does so from that address, and may not pull.
const elsewhere = "10.9.9.9"

// families are those of the clients that can leave.
var families = map[string]string{
	"dockerd": "docker", "ctr": "containerd", "containerd2": "containerd", "buildkit": "buildkit", "podman": "containers", "skopeo": "containers",
	"buildah": "containers",
}

// TestWhoGoesAroundTheBox gives the clients each answer that makes them leave. What the stand-in then sees of a client itself is what the
// box suspects, no more and no less: of dockerd and podman an image, of containerd each manifest and blob that it asks for there.
// Clients that come back are told apart from those that do not.
func TestWhoGoesAroundTheBox(t *testing.T) {
	t.Parallel() // it waits for more than a minute
	need(t, "ip")
	for name := range families {
		clientNamed(t, name)
	}
	w := &watch{site: newSiteWith(t, []string{testRegistry}), left: map[string]int{}, stayed: map[string]int{}}
	mustRun(t, w.ns, exec.Command("ip", "address", "add", elsewhere+"/32", "dev", "lo"))
	// The clients may be configured by a box, which lets all of them pull and knows every registry. The next one does not.
	open := w.startHubcap(t, scratch(t), "HUBCAP_LISTEN=:5000", "HUBCAP_ALLOW_CLIENTS=127.0.0.0/8,"+elsewhere+"/32",
		"HUBCAP_UPSTREAM_1_HOST="+testRegistry)
	for _, c := range slices.Concat(clients, otherClients) {
		if family := families[c.name]; family != "" {
			w.clients = append(w.clients, watched{c, family, c.start(t, w.site, mirror), c.start(t, w.site, elsewhere+":5000")})
		}
	}
	open.stop()
	w.box = w.startHubcap(t, scratch(t), "HUBCAP_LISTEN=:5000", "HUBCAP_ALLOW_CLIENTS=127.0.0.0/8", "HUBCAP_UPSTREAM_0_DENY=refused/**",
		"HUBCAP_TAG_TTL=1ms", "HUBCAP_RATE_LIMIT_WAIT=0s")
	for _, l := range leavings {
		t.Run(l.name, func(t *testing.T) { w.run(t, l) })
	}
	w.assertOutcomes(t)
}

// leaving is an answer that makes clients leave.
type leaving struct {
	name, why string
	// begin makes the box answer so for the images.
	begin func(t *testing.T, w *watch, images []*image)
	also  string // another reason for some of what containerd asks for
	here  int    // suspicions of clients that ask nobody else
	// only are the families that it is tried with, nil for all; fail are those that fail and go nowhere, leave those that go to the registry.
	only, fail, leave []string
	// back are the families that fetch from the box after all, what they went to the registry for or the rest of the image.
	back []string
}

// The sooner a case comes, the less the end of the test waits for what the box decides.
var leavings = []leaving{
	{name: "nothing"},
	{name: "refused", why: "refused", leave: []string{"docker", "containerd", "buildkit", "containers"}},
	{name: "registry.test", why: "unknown_registry", leave: []string{"containerd", "buildkit", "containers"}, fail: []string{"docker"}}, // dockerd names the box itself
	{name: "elsewhere", why: "not_allowed", leave: []string{"docker", "containerd", "buildkit", "containers"}},
	{
		name: "incomplete", why: "incomplete", also: "failed", leave: []string{"docker", "containerd", "buildkit", "containers"},
		begin: func(t *testing.T, w *watch, images []*image) {
			for _, i := range images {
				digestOf(t, w.box.get(t, manifestPath(i)), nil)
			}
			w.hub.Reset()
			w.hub.Script(fakehub.Always(&fakehub.Fault{CloseBeforeHeaders: true}, ofHubcap))
		},
	},
	{
		name: "limited", why: "limited", only: []string{"docker", "containerd", "buildkit"}, leave: []string{"docker", "containerd", "buildkit"},
		begin: func(_ *testing.T, w *watch, _ []*image) {
			w.hub.Script(fakehub.Always(limited("5"), ofHubcap))
		},
	},
	{
		name: "limited-for-a-moment", only: []string{"containers"}, // they wait, and stay
		begin: func(_ *testing.T, w *watch, images []*image) {
			var once []fakehub.Script
			for _, i := range images {
				once = append(once, fakehub.Once(limited("1"), ofHubcap, fakehub.OfKind(fakehub.KindManifest), fakehub.OfRepo(i.repository)))
			}
			w.hub.Script(fakehub.First(once...))
		},
	},
	{
		name: "failed", why: "failed", leave: []string{"docker", "containerd", "buildkit", "containers"}, back: []string{"containerd", "buildkit"},
		begin: onManifests(fakehub.Fault{Status: http.StatusServiceUnavailable}),
	},
	{
		name: "blob-failed", why: "failed", leave: []string{"docker", "containerd", "buildkit"}, fail: []string{"containers"},
		begin: onConfig(fakehub.Fault{Status: http.StatusServiceUnavailable}),
	},
	{
		name: "blob-not-found", why: "not_found", leave: []string{"docker", "containerd", "buildkit"}, fail: []string{"containers"},
		begin: onConfig(fakehub.Fault{Status: http.StatusNotFound, Body: []byte(`{"errors":[{"code":"BLOB_UNKNOWN"}]}`)}),
	},
	{
		name: "not-found", why: "not_found", leave: []string{"docker", "containerd", "buildkit", "containers"},
		begin: onManifests(fakehub.Fault{Status: http.StatusNotFound, Body: []byte(`{"errors":[{"code":"MANIFEST_UNKNOWN"}]}`)}),
	},
	{
		name: "cut", why: "cut", only: []string{"containerd", "buildkit"}, here: 1, back: []string{"containerd", "buildkit"},
		begin: func(_ *testing.T, w *watch, images []*image) {
			var once []fakehub.Script
			for _, i := range images {
				wrong := &fakehub.Fault{CorruptAt: fakehub.At(largest(i).Size - 10), Rate: 1 << 20} // what the client has by then is right
				once = append(once, fakehub.Once(wrong, ofHubcap, fakehub.OfKind(fakehub.KindCDN), fakehub.OfReference(largest(i).Digest)))
			}
			w.hub.Script(fakehub.First(once...))
		},
	},
}

func limited(retryAfter string) *fakehub.Fault {
	return &fakehub.Fault{Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {retryAfter}}}
}

// ofHubcap passes what the box asks.
func ofHubcap(r *fakehub.Request) bool { return strings.HasPrefix(r.UserAgent, "hubcap/") }

// onManifests is what the box is answered about the manifests of the images.
func onManifests(f fakehub.Fault) func(t *testing.T, w *watch, images []*image) {
	return func(_ *testing.T, w *watch, images []*image) {
		w.hub.Script(fakehub.Always(&f, ofHubcap, fakehub.OfKind(fakehub.KindManifest), func(r *fakehub.Request) bool {
			return slices.ContainsFunc(images, func(i *image) bool { return i.repository == r.Repo })
		}))
	}
}

// onConfig is what the box is answered about the config of each image: for a layer dockerd tries again for a minute.
func onConfig(f fakehub.Fault) func(t *testing.T, w *watch, images []*image) {
	return func(_ *testing.T, w *watch, images []*image) {
		w.hub.Script(fakehub.Always(&f, ofHubcap, fakehub.OfKind(fakehub.KindBlob), func(r *fakehub.Request) bool {
			return slices.ContainsFunc(images, func(i *image) bool { return i.pulled()[0].Digest.String() == r.Reference })
		}))
	}
}

// watch is a site with a box and clients, and what the box should have counted.
type watch struct {
	*site
	box          *hubcap
	clients      []watched
	left, stayed map[string]int // by family
}

type watched struct {
	client
	family string
	here   session // may pull
	out    session // may not
}

// run has each client pull an image of its own.
func (w *watch) run(t *testing.T, l leaving) {
	w.hub.Script(nil)
	w.recover(t)
	var images []*image
	for _, c := range w.clients {
		i := multiArchOf(l.name + "/" + c.name)
		w.publish(i)
		images = append(images, i)
		if registry, rest, ok := strings.Cut(i.repository, "/"); ok && registry == testRegistry {
			there := *i
			there.repository = rest
			w.publish(&there)
		}
	}
	if l.begin != nil {
		l.begin(t, w, images)
	}
	for n, c := range w.clients {
		if l.only != nil && !slices.Contains(l.only, c.family) {
			continue
		}
		if l.why == "not_allowed" && c.family == "containers" && c.name != "podman" {
			continue // they ask for no image: within ten seconds they are one
		}
		t.Run(c.name, func(t *testing.T) { w.pull(t, l, c, images[n]) })
	}
}

// recover waits until the box asks its registry again.
func (w *watch) recover(t *testing.T) {
	i := singleImage("works/" + strconv.Itoa(len(w.hub.Log())))
	w.publish(i)
	waitUntil(t, "the box asks its registry", func() bool { return w.box.status(manifestPath(i)) == http.StatusOK })
}

// pull compares what the client asked of the registry itself with what the box suspects.
func (w *watch) pull(t *testing.T, l leaving, c watched, i *image) {
	before, reasons := w.suspected(t, c.family, ""), w.because(t, c.family, l)
	w.hub.Reset()
	session := c.here
	if l.why == "not_allowed" {
		session = c.out
	}
	err := session.pull(i)
	if fails := slices.Contains(l.fail, c.family); fails != (err != nil) {
		t.Errorf("it pulls: %v", err)
	}
	asked := w.askedBy(c)
	if leaves := slices.Contains(l.leave, c.family); leaves != (asked > 0) {
		t.Errorf("it asked the registry itself for %d things:\n%s", asked, describe(w.hub.Log()))
	}
	n := asked + l.here
	var all, because int
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) { // an answer is counted when it has ended
		all, because = w.suspected(t, c.family, ""), w.because(t, c.family, l)
		if all-before == n || time.Now().After(deadline) {
			break
		}
	}
	if all-before != n || because-reasons != n {
		t.Errorf("the box suspects %d things, %d of them for %s; want %d", all-before, because-reasons, l.why, n)
	}
	switch {
	case l.why == "not_found":
	case slices.Contains(l.back, c.family):
		w.stayed[c.family] += n
	default:
		w.left[c.family] += n
	}
}

// askedBy is how many things a client asked the registry itself for: images, of one that leaves with all of an image at once.
func (w *watch) askedBy(c watched) int {
	things := map[string]bool{}
	for _, r := range w.hub.Log() {
		if !strings.HasPrefix(r.UserAgent, c.agent+"/") || r.Kind != fakehub.KindManifest && r.Kind != fakehub.KindBlob {
			continue
		}
		if c.family == "containerd" || c.family == "buildkit" || !strings.Contains(r.Reference, ":") {
			things[r.Reference] = true
		}
	}
	return len(things)
}

// suspected is how often the box suspects a family, for a reason or in all.
func (w *watch) suspected(t *testing.T, family, why string) (n int) {
	t.Helper()
	for reason, times := range w.box.labelled(t, fmt.Sprintf(`hubcap_bypass_suspected_total{family=%q,why=`, family)) {
		if why == "" || why == reason {
			n += times
		}
	}
	return n
}

// because is how often the box suspects a family for the reasons of a case.
func (w *watch) because(t *testing.T, family string, l leaving) (n int) {
	t.Helper()
	for _, why := range []string{l.why, l.also} {
		if why != "" {
			n += w.suspected(t, family, why)
		}
	}
	return n
}

// assertOutcomes waits until the box has decided who left, which takes a minute.
func (w *watch) assertOutcomes(t *testing.T) {
	began := time.Now()
	for family := range w.left {
		want := map[string]int{"left": w.left[family], "stayed": w.stayed[family]}
		var got map[string]int
		for deadline := time.Now().Add(80 * time.Second); ; time.Sleep(100 * time.Millisecond) {
			got = w.box.labelled(t, fmt.Sprintf(`hubcap_bypass_outcomes_total{family=%q,outcome=`, family))
			if maps.Equal(got, want) || time.Now().After(deadline) {
				break
			}
		}
		if !maps.Equal(got, want) {
			t.Errorf("%s: the box counts %v, want %v", family, got, want)
		}
	}
	t.Logf("left %v, stayed %v; waited %v", w.left, w.stayed, time.Since(began))
	if log := w.box.log.String(); len(w.left) > 0 && !strings.Contains(log, "a client has probably pulled past this mirror") {
		t.Error("the box does not warn")
	}
}

// labelled are the values of the series that begin so, by the label that follows.
func (h *hubcap) labelled(t *testing.T, begin string) map[string]int {
	t.Helper()
	response, err := h.http.Get("http://" + admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = io.Copy(io.Discard, response.Body); _ = response.Body.Close() }()
	values := map[string]int{}
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		rest, ok := strings.CutPrefix(lines.Text(), begin)
		if !ok {
			continue
		}
		label, value, _ := strings.Cut(rest, "} ")
		if values[strings.Trim(label, `"`)], err = strconv.Atoi(value); err != nil {
			t.Fatal(err)
		}
	}
	return values
}
