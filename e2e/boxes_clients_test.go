package e2e

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"hubcap/e2e/fakehub"
)

// slowly is a stand-in that takes some seconds for a layer of layerSize.
var slowly = fakehub.Options{Latency: 20 * time.Millisecond, ConnBandwidth: 3 * mib}

// halfWayThrough starts a pull and waits until a part of its layer has crossed the link.
func (b *boxes) halfWayThrough(t *testing.T, s session, i *image) (ended <-chan error) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- s.pull(i) }()
	b.under(t, i.pulled()[1].Digest, layerSize/4)
	return done
}

// TestBoxesEntryKilled kills the box that a client pulls through, in the middle of a layer: containerd goes on at the next box of the
// hosts.toml that /setup has given it, and nobody asks the registry but the boxes.
func TestBoxesEntryKilled(t *testing.T) {
	for _, name := range []string{"ctr", "containerd2", "buildkit"} {
		t.Run(name, func(t *testing.T) {
			c := clientNamed(t, name)
			i := bigImage("library/big", layerSize)
			b := newBoxes(t, 3, slowly)
			b.publish(i)
			entry := b.all[0]
			ended := b.halfWayThrough(t, c.start(t, b.site, entry.address), i)
			entry.kill()
			begun := time.Now()
			if err := <-ended; err != nil {
				t.Fatal(err)
			}
			b.assertNoBypass(t)
			t.Logf("complete %s after the box was killed; %.2f of the layer crossed", time.Since(begun).Round(100*time.Millisecond), float64(b.hub.BytesSent(i.pulled()[1].Digest))/layerSize)
		})
	}
}

// TestBoxesOneName gives dockerd one mirror whose name has the address of every box, and kills the box that it pulls through in the
// middle of a layer: it goes on at another address, by Range.
func TestBoxesOneName(t *testing.T) {
	clientNamed(t, "dockerd")
	i := bigImage("library/big", layerSize)
	b := newBoxes(t, 3, slowly)
	b.publish(i)
	d := dockerd{newTool(t, b.site, commonName+":5000")}
	d.start(t, d.write(t, "daemon.json", `{"registry-mirrors": ["http://`+commonName+`:5000"]}`))
	ended := b.halfWayThrough(t, d, i)
	entry := b.entryOf(t, "dockerd")
	entry.kill()
	begun := time.Now()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	b.assertNoBypass(t)
	t.Logf("complete %s after the box was killed; %.2f of the layer crossed", time.Since(begun).Round(100*time.Millisecond), float64(b.hub.BytesSent(i.pulled()[1].Digest))/layerSize)
}

// entryOf is the box that a program is connected to.
func (b *boxes) entryOf(t *testing.T, program string) *siteBox {
	t.Helper()
	connections := mustRun(t, b.ns, exec.Command("ss", "-Htnp"))
	for line := range strings.Lines(connections) {
		i := slices.IndexFunc(b.all, func(one *siteBox) bool { return strings.Contains(line, one.address) })
		if i >= 0 && strings.Contains(line, `"`+program+`"`) {
			return b.all[i]
		}
	}
	t.Fatalf("%s is connected to no box:\n%s", program, connections)
	return nil
}

// TestBoxesOwnerKilledUnderClients kills the box that others read from, under clients that never ask for a layer again: they do not
// notice.
func TestBoxesOwnerKilledUnderClients(t *testing.T) {
	for _, name := range []string{"podman", "crane", "skopeo"} {
		t.Run(name, func(t *testing.T) {
			c := clientNamed(t, name)
			b := newBoxes(t, 3, slowly)
			i := bigImage("library/big", layerSize)
			b.publish(i)
			layer := i.pulled()[1].Digest
			owner := b.begin(t, blobPath(i, layer), layer)
			ended := b.halfWayThrough(t, c.start(t, b.site, b.others(owner)[0].address), i)
			owner.kill()
			if err := <-ended; err != nil {
				t.Fatal(err)
			}
			b.assertNoBypass(t)
		})
	}
}
