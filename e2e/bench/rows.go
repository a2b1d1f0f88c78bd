package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hubcap/e2e/fakehub"
)

const mib = 1 << 20

// repository is where all content is pulled from but where a row says
// otherwise: one that the box has been asked for before.
const repository = "library/demo"

// measurements are what is measured, in the order of the table.
var measurements = []measurement{
	{"warm layers", warmLayers},
	{"warm small", warmSmall},
	{"warm layers over TLS", warmLayersOverTLS},
	{"warm manifest over TLS", warmManifestOverTLS},
	{"idle connections", idleConnections},
	{"warm tag pulls", warmTags},
	{"cold image", coldImages},
	{"cold layer", coldLayer},
	{"cold range", coldRange},
	{"cold fill", pacedFills},
	{"500 cold layers", manyFills},
	{"64 clients", manyClients},
	{"64 clients that drop bodies", manyDroppers},
	{"warm manifests beside cold fills", besideFills},
	{"500 clients", oneTag},
	{"faults", faults},
}

// collected makes rows of what is measured of each contender.
func collected(rows ...row) []row {
	for i := range rows {
		rows[i].cells, rows[i].words = make(map[string][]float64), make(map[string]string)
	}
	return rows
}

func (r row) add(c *contender, figure float64) { r.cells[c.name] = append(r.cells[c.name], figure) }

// content adds a layer to the hub that nobody has seen, and an image of it
// under a tag of its own.
func (b *bench) content(repository string, sizes ...int64) (tag string, layers []digest.Digest) {
	var all []ocispec.Descriptor
	for _, size := range sizes {
		b.seed++
		d := b.hub.AddRandomBlob(repository, b.seed, size)
		layers = append(layers, d)
		all = append(all, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: d, Size: size})
	}
	tag = fmt.Sprintf("v%d", b.seed)
	b.hub.ImageOf(repository, tag, all...)
	return tag, layers
}

// served puts content where a contender has it: into its cache, or into a
// file. It returns the path that it is asked for by.
func (b *bench) served(c *contender, name, cached string, body []byte) (string, error) {
	if c.name == plainName || c.name == nginxFilesName {
		return "/" + name, os.WriteFile(filepath.Join(b.files, name), body, 0o644)
	}
	p := newPuller(c.url)
	defer p.close()
	resp, err := p.get(cached)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	check := digest.FromBytes(body).Verifier()
	if _, err := io.Copy(check, resp.Body); err != nil {
		return "", err
	}
	if !check.Verified() {
		return "", errCorrupt
	}
	time.Sleep(time.Second) // what is written behind the answer
	return "/v2/" + cached, nil
}

// Who serves what is held, all of them and one of each kind.
var (
	warm    = []string{hubcapName, plainName, nginxFilesName, nginxName, distributionName}
	warmFew = []string{hubcapName, plainName, nginxFilesName}
)

func warmLayers(b *bench) ([]row, error) {
	rows := collected(
		row{what: "warm layers of 64 MiB, 8 connections", unit: "MiB/s", to: nginxFilesName, must: "≥ 0.9"},
		row{what: "the same: CPU of the server a GiB", unit: "s", to: plainName, must: "≤ 1.15"})
	return rows, b.heldLayers(rows, warm...)
}

// heldLayers measures a layer of 64 MiB that is held, over 8 connections: rows are how
// fast it comes and what it costs the server.
func (b *bench) heldLayers(rows []row, which ...string) error {
	const size, requests = 64 * mib, 64
	b.upstream(0, 0, 0)
	b.seed++
	body := fakehub.RandomBlob(b.seed, size)
	d := b.hub.AddBlob(repository, body)
	for range b.reps {
		err := b.each(func(c *contender) error {
			path, err := b.served(c, "layer", repository+"/blobs/"+d.String(), body)
			if err != nil {
				return err
			}
			before, began := c.cpu(), time.Now()
			n, err := load(c.dialer(path, largeBuffer), 8, requests, requests/8)
			took, cpu := time.Since(began), c.cpu()-before
			if err != nil || n != size*requests {
				return fmt.Errorf("%d bytes: %w", n, err)
			}
			rows[0].add(c, float64(n)/mib/took.Seconds())
			rows[1].add(c, cpu.Seconds()/float64(n)*(1<<30))
			return nil
		}, which...)
		if err != nil {
			return err
		}
	}
	return nil
}

// heldManifest has a contender hold a small manifest under a tag. It returns the path
// that it is asked for by.
func (b *bench) heldManifest(c *contender) (string, error) {
	img := b.hub.Image(repository, "held", fakehub.RandomBlob(1, 1000))
	return b.served(c, "manifest", repository+"/manifests/held", img.Body)
}

// warmSmall is what is small and held: a manifest by its tag, over 64 connections and
// over a new one for each request, and a blob of 8 KiB, such as a config.
func warmSmall(b *bench) ([]row, error) {
	const requests, dialled = 64 * 1000, 64 * 200
	rows := collected(
		row{what: "warm manifest by tag, 64 connections, CPU of the server", unit: "µs", to: plainName, must: "≤ 0.8"},
		row{what: "the same, a connection each", unit: "µs", to: plainName, must: "≤ 1.0"},
		row{what: "warm blob of 8 KiB, 64 connections, CPU of the server", unit: "µs", to: plainName, must: "≤ 1.0"})
	b.upstream(0, 0, 0)
	b.seed++
	body := fakehub.RandomBlob(b.seed, 8<<10)
	blob := b.hub.AddBlob(repository, body)
	for range b.reps {
		err := b.each(func(c *contender) error {
			manifest, err := b.heldManifest(c)
			if err != nil {
				return err
			}
			config, err := b.served(c, "config", repository+"/blobs/"+blob.String(), body)
			if err != nil {
				return err
			}
			for i, one := range []struct {
				path                    string
				requests, perConnection int
			}{{manifest, requests, requests / 64}, {manifest, dialled, 1}, {config, requests, requests / 64}} {
				n, perConnection := one.requests, one.perConnection
				if c.name == distributionName { // it asks the hub each time
					n, perConnection = n/16, max(perConnection/16, 1)
				}
				before := c.cpu()
				if _, err := load(c.dialer(one.path, largeBuffer), 64, n, perConnection); err != nil {
					return err
				}
				rows[i].add(c, float64((c.cpu()-before).Microseconds())/float64(n))
			}
			return nil
		}, warm...)
		if err != nil {
			return nil, err
		}
	}
	return rows, nil
}

// warmTags counts what 1,000 pulls of a held tag ask of the hub.
func warmTags(b *bench) ([]row, error) {
	rows := collected(row{what: "requests to the hub for 1,000 warm tag pulls", must: "0"})
	b.upstream(0, 0, 0)
	err := b.each(func(c *contender) error {
		path, err := b.heldManifest(c)
		if err != nil {
			return err
		}
		b.hub.Reset()
		if _, err := load(c.dialer(path, largeBuffer), 10, 1000, 100); err != nil {
			return err
		}
		rows[0].add(c, float64(len(b.hub.Log())))
		return nil
	}, hubcapName, nginxName, distributionName)
	return rows, err
}

// coldLayer is a layer of 256 MiB that nobody holds, with its manifest: of a
// repository that was pulled from before, and of one that was not.
func coldLayer(b *bench) ([]row, error) {
	rows := collected(
		row{what: "first byte of a cold 256 MiB layer, manifest included, 40 MB/s a connection", unit: "ms", to: directName, must: "≤ 0.65"},
		row{what: "the same in a repository that was never pulled from", unit: "ms", to: directName},
		row{what: "the whole of that layer", unit: "s", to: directName, must: "≤ 0.4"})
	b.upstream(near, 40e6, 0)
	err := b.each(func(c *contender) error {
		for i := range 2 * b.reps {
			name, first := repository, rows[0]
			if i%2 == 1 {
				name, first = fmt.Sprintf("library/cold%d", b.seed), rows[1]
			} else if err := b.pullOne(c); err != nil {
				return err
			}
			tag, _ := b.content(name, 256*mib)
			p := newPuller(c.url)
			defer p.close()
			began := time.Now()
			m, err := p.manifest(name, tag)
			if err != nil {
				return err
			}
			at, err := p.blob(name, m.Layers[0].Digest)
			if err != nil {
				return err
			}
			first.add(c, float64(at.Sub(began).Microseconds())/1000)
			rows[2].add(c, time.Since(began).Seconds())
		}
		return nil
	}, cold...)
	return rows, err
}

// pullOne pulls something small, so that the repository is known.
func (b *bench) pullOne(c *contender) error {
	tag, layers := b.content(repository, 1000)
	p := newPuller(c.url)
	defer p.close()
	if _, err := p.manifest(repository, tag); err != nil {
		return err
	}
	_, err := p.blob(repository, layers[0])
	return err
}

// coldRange is 1 MiB in the middle of a blob of 256 MiB that nobody holds.
func coldRange(b *bench) ([]row, error) {
	rows := collected(row{what: "1 MiB in the middle of a cold 256 MiB blob", unit: "ms", to: directName, must: "≤ 1.2"})
	b.upstream(near, 40e6, 0)
	err := b.each(func(c *contender) error {
		for range b.reps {
			b.seed++
			body := fakehub.RandomBlob(b.seed, 256*mib)
			d := b.hub.AddBlob(repository, body)
			p := newPuller(c.url)
			defer p.close()
			if err := b.known(c, p); err != nil {
				return err
			}
			began := time.Now()
			if err := p.piece(repository, d, 128*mib, body[128*mib:129*mib]); err != nil {
				return err
			}
			rows[0].add(c, float64(time.Since(began).Microseconds())/1000)
			b.hub.DeleteBlob(repository, d)
		}
		return nil
	}, cold...)
	return rows, err
}

// known has a puller and its contender hold a token.
func (b *bench) known(c *contender, p *puller) error {
	if err := b.pullOne(c); err != nil {
		return err
	}
	tag, _ := b.content(repository, 1000)
	_, err := p.manifest(repository, tag)
	return err
}

// manyClients is one layer of 64 MiB that nobody holds, asked for by 64
// clients at once, beside one that fetches it directly. What the clients
// themselves take on these processors is seen where plain Go serves them a
// file.
func manyClients(b *bench) ([]row, error) {
	const size = 64 * mib
	rows := collected(
		row{what: "64 clients, one cold 64 MiB layer, 40 MB/s a connection, 125 MB/s in all (direct: one client; plain Go: holds it)", unit: "s", to: directName, must: "≤ 1.25"},
		row{what: "the same: bytes from the hub", unit: "×", must: "1"},
		row{what: "the same: peak memory", unit: "MiB", must: "≤ 64"})
	b.upstream(near, 40e6, line)
	for range b.reps {
		err := b.each(func(c *contender) error {
			_, layers := b.content(repository, size)
			if c.name == plainName {
				if err := b.file(layers[0], size); err != nil {
					return err
				}
			}
			began := time.Now()
			err := together(atOnce(c), func(int) error {
				p := newPuller(c.url)
				defer p.close()
				_, err := p.blob(repository, layers[0])
				return err
			})
			if err != nil {
				return err
			}
			rows[0].add(c, time.Since(began).Seconds())
			if c.name == plainName {
				return nil
			}
			rows[1].add(c, float64(b.hub.BytesSent(layers[0]))/size)
			if c.process != nil {
				rows[2].add(c, c.peak()/mib)
			}
			return nil
		}, append(cold, plainName)...)
		if err != nil {
			return nil, err
		}
	}
	return rows, nil
}

// atOnce is how many clients ask a contender for one layer at once.
func atOnce(c *contender) int {
	if c.name == directName {
		return 1
	}
	return 64
}

// file puts the layer added last where plain Go serves it under its name.
func (b *bench) file(d digest.Digest, size int) error {
	dir := filepath.Join(b.files, "v2", repository, "blobs")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, d.String()), fakehub.RandomBlob(b.seed, size), 0o644)
}

// oneTag is 500 clients that ask for one tag that nobody holds.
func oneTag(b *bench) ([]row, error) {
	rows := collected(row{what: "500 clients, one cold tag: manifest GETs + HEADs, tokens", must: "1+1, 1"})
	b.upstream(near, 0, 0)
	err := b.each(func(c *contender) error {
		tag, _ := b.content(repository, 1000)
		b.hub.Reset()
		err := together(500, func(int) error {
			p := newPuller(c.url)
			defer p.close()
			_, err := p.manifest(repository, tag)
			return err
		})
		if err != nil {
			return err
		}
		count := func(method string) int {
			return b.hub.Count(fakehub.OfKind(fakehub.KindManifest), fakehub.OfMethod(method), fakehub.OfStatus(200))
		}
		rows[0].words[c.name] = fmt.Sprintf("%d+%d, %d", count("GET"), count("HEAD"), b.hub.Count(fakehub.OfKind(fakehub.KindToken)))
		return nil
	}, hubcapName, nginxName, distributionName)
	return rows, err
}

// faults are a hub that cuts, one that corrupts, and a power cut of the cache.
func faults(b *bench) ([]row, error) {
	const size = 64 * mib
	rows := collected(
		row{what: "the hub cuts half-way: the first client", must: "complete"},
		row{what: "the hub corrupts a byte: the first client, the next one", must: "not complete, complete"},
		row{what: "killed half-way through a layer: of its bytes fetched in all", unit: "×"})
	b.upstream(5*time.Millisecond, 100e6, 0)
	once := func(f *fakehub.Fault) { b.hub.Script(fakehub.Once(f, fakehub.OfKind(fakehub.KindCDN))) }
	err := b.each(func(c *contender) error {
		defer b.hub.Script(nil)
		_, layers := b.content(repository, size)
		once(&fakehub.Fault{CutAt: fakehub.At(3 * mib)})
		rows[0].words[c.name] = b.outcome(c, layers[0])

		_, layers = b.content(repository, size)
		b.hub.Script(func(q *fakehub.Request) *fakehub.Fault {
			if q.Kind != fakehub.KindCDN {
				return nil
			}
			return &fakehub.Fault{CorruptAt: fakehub.At(3 * mib)}
		})
		first := b.outcome(c, layers[0])
		b.hub.Script(nil)
		rows[1].words[c.name] = first + ", " + b.outcome(c, layers[0])

		_, layers = b.content(repository, size)
		killed := make(chan error)
		go func() { killed <- b.killHalfWay(c, layers[0], size) }()
		first = b.outcome(c, layers[0])
		if err := <-killed; err != nil {
			return err
		}
		if first == "complete" {
			return errors.New("it was complete before it was killed")
		}
		if again := b.outcome(c, layers[0]); again != "complete" {
			return errors.New("after the restart: " + again)
		}
		rows[2].add(c, float64(b.hub.BytesSent(layers[0]))/size)
		return nil
	}, hubcapName, nginxName, distributionName)
	return rows, err
}

// killHalfWay kills a contender when half of a blob has left the hub, and
// starts it again.
func (b *bench) killHalfWay(c *contender, d digest.Digest, size int64) error {
	for b.hub.BytesSent(d) < size/2 {
		time.Sleep(time.Millisecond)
	}
	c.kill()
	return c.restart()
}

// outcome is what a client that asks once gets of a blob.
func (b *bench) outcome(c *contender, d digest.Digest) string {
	p := newPuller(c.url)
	defer p.close()
	switch _, err := p.blob(repository, d); {
	case err == nil:
		return "complete"
	case errors.Is(err, errCorrupt):
		return "corrupt"
	default:
		return "not complete"
	}
}
