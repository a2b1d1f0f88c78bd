package e2e

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hubcap/e2e/fakehub"
	"hubcap/e2e/testkit"
)

// TestEveryClient has every client pull every kind of content: cold, warm, while another one is pulling it, and with the upstream cutting a
// layer in half; and then has the client's own connection cut. What a client cannot do is tested to be so. Each time the upstream's log
// tells that nobody went around the box, and that nothing came twice.
func TestEveryClient(t *testing.T) {
	t.Parallel()
	for _, c := range slices.Concat(clients, otherClients) {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			need(t, c.programs...)
			s := newSite(t)
			o := &office{site: s, client: c, box: s.startHubcap(t, scratch(t), longTTL), cutter: newCutter(t, s.ns)}
			o.first, o.second, o.cut = c.start(t, s, mirror), c.start(t, s, mirror), c.start(t, s, cutterAddress)
			for _, k := range kinds {
				outcome := c.cannot[k.name]
				if outcome == ignores {
					continue
				}
				t.Run(k.name, func(t *testing.T) {
					if outcome != takes {
						o.cannot(t, k, outcome)
						return
					}
					for name, test := range o.cases(k) {
						t.Run(name, func(t *testing.T) {
							s.hub.Reset()
							s.hub.Script(nil)
							i := k.make(strings.ReplaceAll(name, " ", "-") + "/" + k.name)
							s.publish(i)
							test(t, i)
						})
					}
				})
			}
		})
	}
}

// office is a site with a box and three clients of a kind, the last of them behind a connection that can be cut.
type office struct {
	*site
	client             client
	box                *hubcap
	cutter             *cutter
	first, second, cut session
}

// cases are what is tried with a kind of content. The client's own connection is cut for one kind: some take their time.
func (o *office) cases(k kind) map[string]func(t *testing.T, i *image) {
	cases := map[string]func(t *testing.T, i *image){"cold and warm": o.coldAndWarm, "during a fill": o.duringFill, "after a cut": o.afterCut}
	if k.name == "multi-arch" || o.client.cannot["multi-arch"] != takes {
		cases["cut itself"] = o.cutItself
	}
	return cases
}

func (o *office) coldAndWarm(t *testing.T, i *image) {
	mustPull(t, o.first, i)
	o.assertPulledOnce(t, i)
	o.hub.Reset()
	mustPull(t, o.second, i)
	if more := o.hub.Log(); len(more) > 0 {
		t.Errorf("the warm pull asked the upstream:\n%s", describe(more))
	}
}

// duringFill lets the client come when a layer is half there for somebody else.
func (o *office) duringFill(t *testing.T, i *image) {
	layer := largest(i)
	gate := newGate(i.blobs[layer.Digest], layer.Size/2)
	t.Cleanup(gate.open)
	o.hub.AddBlobFunc(i.repository, layer.Digest, layer.Size, gate.reader)
	other := o.box.get(t, blobPath(i, layer.Digest))
	joined := o.box.metric(t, "hubcap_fills_joined_total")
	done := make(chan error, 1)
	go func() { done <- o.first.pull(i) }()
	waitUntil(t, "the client waits for the layer", func() bool {
		return o.box.metric(t, "hubcap_fills_joined_total") > joined || len(done) > 0
	})
	gate.open()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := digestOf(t, other, nil); got != layer.Digest {
		t.Errorf("the other one got %s, want %s", got, layer.Digest)
	}
	o.assertPulledOnce(t, i)
}

// afterCut has the upstream end a layer's connection half-way: the box goes on from there, and the client does not notice.
func (o *office) afterCut(t *testing.T, i *image) {
	layer := largest(i)
	cut := &fakehub.Fault{CutAt: fakehub.At(layer.Size / 2)}
	ofLayer := fakehub.All(fakehub.OfKind(fakehub.KindCDN), fakehub.OfMethod(http.MethodGet), fakehub.OfReference(layer.Digest))
	o.hub.Script(fakehub.Once(cut, ofLayer))
	mustPull(t, o.first, i)
	o.assertPulledOnce(t, i)
	if n := o.hub.Count(ofLayer); n != 2 {
		t.Errorf("%d requests for the layer that was cut, want 2", n)
	}
}

// cutItself ends the client's connection to the box half-way. A client that can goes on from there; one that cannot fails, and pulls again.
func (o *office) cutItself(t *testing.T, i *image) {
	layer := largest(i)
	o.cutter.cut(layer.Digest, layer.Size/2)
	err := o.cut.pull(i)
	if (err == nil) != o.client.resumes {
		t.Errorf("with its connection cut: %v; want it to resume: %v", err, o.client.resumes)
	}
	if err != nil {
		mustPull(t, o.cut, i)
	}
	switch parts := o.cutter.parts(); {
	case !o.client.resumes && len(parts) != 0, o.client.resumes && len(parts) == 0, o.client.byRanges && len(parts) < 3:
		t.Errorf("it asked for the parts %q of the layer", parts)
	}
	o.assertPulledOnce(t, i)
}

// cannot has a client try what it cannot do.
func (o *office) cannot(t *testing.T, k kind, outcome outcome) {
	o.hub.Reset()
	o.hub.Script(nil)
	i := k.make("cannot/" + k.name)
	o.publish(i)
	if err := o.first.pull(i); err == nil {
		testkit.Missing(t, "a %s that cannot pull %s is not installed but a later one, which the table of clients does not know", o.client.name, k.name)
	}
	if outcome == refuses {
		o.assertNoBypass(t)
		return
	}
	if !slices.Contains(agents(o.hub.Log()), o.client.agent) {
		t.Error("it did not go on at the registry: say so in the table of clients")
	}
}

// assertPulledOnce is assertNoBypass and assertCrossedOnce for a client that may want to see all the platforms.
func (o *office) assertPulledOnce(t *testing.T, i *image) {
	t.Helper()
	o.assertNoBypass(t)
	if o.client.describesAll {
		i = i.described()
	}
	o.assertCrossedOnce(t, i)
}

// largest is the layer that is worth interrupting.
func largest(i *image) ocispec.Descriptor {
	return slices.MaxFunc(i.pulled(), func(a, b ocispec.Descriptor) int { return int(a.Size - b.Size) })
}
