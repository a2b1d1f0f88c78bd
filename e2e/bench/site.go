package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/opencontainers/go-digest"

	"hubcap/e2e/fakehub"
)

// Several boxes are measured against one, and against several that do not know each
// other.
const (
	oneBox           = "one box"
	threeBoxes       = "three boxes"
	threeIndependent = "three independent boxes"
)

var siteNames = []string{oneBox, threeBoxes, threeIndependent}

// siteMeasurements are what is measured of boxes, in the order of the table.
var siteMeasurements = []measurement{
	{"site: 30 clients", siteColdImage},
	{"site: owner killed", siteOwnerKilled},
	{"site: two boxes", siteTwoBoxes},
}

// group is boxes on addresses of loopback.
type group []*contender

// group starts n boxes, that know each other or not, and calls f.
func (b *bench) group(n int, known bool, f func(g group) error) (err error) {
	var g group
	var addresses, list []string
	for range n {
		address, err := freeAddress()
		if err != nil {
			return err
		}
		addresses, list = append(addresses, address), append(list, "http://"+address)
	}
	defer func() {
		for _, c := range g {
			if c.process != nil {
				c.kill()
			}
			err = errors.Join(err, os.RemoveAll(c.dir))
		}
	}()
	for _, address := range addresses {
		var site []string
		if known {
			site = []string{"HUBCAP_SITE=" + strings.Join(list, ","), "HUBCAP_SITE_SELF=http://" + address}
		}
		dir, err := os.MkdirTemp(b.dir, "box-")
		if err != nil {
			return err
		}
		c := &contender{name: hubcapName, url: "http://" + address, dir: dir}
		g = append(g, c)
		if c.process, err = b.launchBox(c, address, site...); err != nil {
			return err
		}
	}
	return f(g)
}

// launchBox starts a hubcap with further variables.
func (b *bench) launchBox(c *contender, address string, settings ...string) (*process, error) {
	admin, err := freeAddress()
	if err != nil {
		return nil, err
	}
	token, err := url.Parse(b.hub.TokenURL())
	if err != nil {
		return nil, err
	}
	return start(filepath.Join(c.dir, "log"), c.url+"/readyz", append([]string{
		"HUBCAP_LISTEN=" + address, "HUBCAP_ADMIN_LISTEN=" + admin,
		"HUBCAP_DATA_DIR=" + filepath.Join(c.dir, "data"), "HUBCAP_CACHE_SIZE=8GiB", "HUBCAP_MIN_FREE=1GiB",
		"HUBCAP_MAX_CONNECTIONS_PER_CLIENT=1024", // all clients have one address
		"HUBCAP_UPSTREAM_0_HOST=docker.io", "HUBCAP_UPSTREAM_0_URL=" + b.hub.RegistryURL(),
		"HUBCAP_UPSTREAM_0_PRIVATE_CIDRS=127.0.0.0/8", "HUBCAP_UPSTREAM_0_TOKEN_HOSTS=" + token.Host,
	}, settings...), b.programs[hubcapName])
}

func (g group) cpu() (all time.Duration) {
	for _, c := range g {
		all += c.cpu()
	}
	return all
}

// siteColdImage is an image of 12 layers that nobody holds, pulled by 30 clients at once,
// which are spread over the boxes.
func siteColdImage(b *bench) ([]row, error) {
	const clients, layers = 30, 12
	rows := collected(
		row{what: "30 clients, a cold image of 12 layers, 200 MiB, 40 MB/s a connection, 125 MB/s in all", unit: "s", of: threeBoxes, to: oneBox},
		row{what: "the same: bytes from the hub", unit: "×", of: threeBoxes, to: oneBox, must: "≤ 1.02"},
		row{what: "the same: counted pulls, HEADs, tokens", must: "1, 3, 3"})
	b.upstream(near, 40e6, line)
	for range b.reps {
		for i, name := range siteNames {
			err := b.group([]int{1, 3, 3}[i], name == threeBoxes, func(g group) error {
				tag, all := b.content(repository, sizes(layers, layerSize)...)
				b.hub.Reset()
				began := time.Now()
				err := together(clients, func(n int) error { return g[n%len(g)].image(tag) })
				if err != nil {
					return err
				}
				rows[0].cells[name] = append(rows[0].cells[name], time.Since(began).Seconds())
				var sent int64
				for _, d := range all {
					sent += b.hub.BytesSent(d)
				}
				rows[1].cells[name] = append(rows[1].cells[name], float64(sent)/(layers*layerSize))
				count := func(method string) int {
					return b.hub.Count(fakehub.OfKind(fakehub.KindManifest), fakehub.OfMethod(method), fakehub.OfStatus(200))
				}
				rows[2].words[name] = fmt.Sprintf("%d, %d, %d", count("GET"), count("HEAD"), b.hub.Count(fakehub.OfKind(fakehub.KindToken)))
				return nil
			})
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return rows, nil
}

// image pulls an image.
func (c *contender) image(tag string) error {
	p := newPuller(c.url)
	defer p.close()
	m, err := p.manifest(repository, tag)
	if err != nil {
		return err
	}
	for _, l := range m.Layers {
		if _, err := p.blob(repository, l.Digest); err != nil {
			return err
		}
	}
	return nil
}

// siteOwnerKilled kills the box that fetches a layer when a quarter of it has left the
// hub, while a client reads it at another one.
func siteOwnerKilled(b *bench) ([]row, error) {
	const size = 256 * mib
	rows := collected(
		row{what: "the owner is killed in the middle of a 256 MiB layer, 10 MB/s a connection: longest pause of a client of another box", unit: "ms", must: "≤ 1000"},
		row{what: "the same: bytes from the hub", unit: "×", must: "≤ 2"})
	b.upstream(near, 10e6, 0)
	for range b.reps {
		err := b.group(3, true, func(g group) error {
			owner, d := b.ownedBy(g, size)
			killed := make(chan struct{})
			go func() {
				defer close(killed)
				for b.hub.BytesSent(d) < size/4 {
					time.Sleep(time.Millisecond)
				}
				g[owner].kill()
				g[owner].process = nil
			}()
			pause, err := longestPause(g[(owner+1)%3].url+"/v2/"+repository+"/blobs/"+d.String(), d)
			<-killed
			if err != nil {
				return err
			}
			rows[0].cells[threeBoxes] = append(rows[0].cells[threeBoxes], float64(pause.Milliseconds()))
			rows[1].cells[threeBoxes] = append(rows[1].cells[threeBoxes], float64(b.hub.BytesSent(d))/size)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return rows, nil
}

// ownedBy adds a blob, and returns which of the boxes owns it: the one with the highest
// hash of its name and the digest.
func (b *bench) ownedBy(g group, size int64) (owner int, d digest.Digest) {
	b.seed++
	d = b.hub.AddRandomBlob(repository, b.seed, size)
	highest := uint64(0)
	for i, c := range g {
		if rank := xxhash.Sum64String(c.url + " " + d.String()); rank >= highest {
			owner, highest = i, rank
		}
	}
	return owner, d
}

// longestPause reads a blob as a client that asks once, and returns the longest time
// without a byte.
func longestPause(at string, d digest.Digest) (pause time.Duration, err error) {
	resp, err := http.Get(at)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	check, buf, last := d.Verifier(), make([]byte, 256<<10), time.Now()
	for {
		n, err := resp.Body.Read(buf)
		pause = max(pause, time.Since(last))
		last = time.Now()
		_, _ = check.Write(buf[:n])
		switch {
		case err == io.EOF && check.Verified():
			return pause, nil
		case err == io.EOF:
			return pause, errCorrupt
		case err != nil:
			return pause, err
		}
	}
}

// siteTwoBoxes is the processor time of a layer that nobody holds: through one box, and
// through two, of which one owns it.
func siteTwoBoxes(b *bench) ([]row, error) {
	const size = 512 * mib
	rows := collected(row{what: "a cold layer of 512 MiB through one box, and through the box that owns it and another one: CPU of the boxes a GiB", unit: "s", of: threeBoxes, to: oneBox, must: "≤ 2.2"})
	b.upstream(0, 0, 0)
	for range b.reps {
		for i, name := range []string{oneBox, threeBoxes} {
			err := b.group([]int{1, 3}[i], name == threeBoxes, func(g group) error {
				owner, d := b.ownedBy(g, size)
				entry := g[(owner+1)%len(g)]
				if err := b.pullOne(entry); err != nil {
					return err
				}
				before := g.cpu()
				n, err := load(entry.dialer("/v2/"+repository+"/blobs/"+d.String(), largeBuffer), 1, 1, 1)
				if err != nil || n != size {
					return fmt.Errorf("%d bytes: %w", n, err)
				}
				time.Sleep(time.Second) // what is written behind the answer
				rows[0].cells[name] = append(rows[0].cells[name], (g.cpu()-before).Seconds()/size*(1<<30))
				return nil
			})
			if err != nil {
				return nil, err
			}
		}
	}
	return rows, nil
}
