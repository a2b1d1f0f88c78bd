package main

import (
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/e2e/fakehub"
)

var cold = []string{hubcapName, nginxName, distributionName, directName}

// coldImage is the pull of an image that nobody holds.
type coldImage struct {
	what, must string
	layers     int
	size       int64 // bytes of a layer
	latency    time.Duration
	distant    bool // connections are made and begin as over a long way
	atATime    int  // layers that the client takes at once
	first      bool // the cache was just started, and has spoken to nobody
	settings   []string
}

const (
	near = 20 * time.Millisecond
	far  = 100 * time.Millisecond

	layerSize = 200 * mib / 12 // of 12 layers
	smallSize = 200 << 10      // of 40 layers
)

// dockerAtATime is how many layers dockerd pulls at once.
const dockerAtATime = 3

var coldImageRows = []coldImage{
	{"cold image, 12 layers, 200 MiB, 20 MB/s a connection", "≤ 0.5", 12, layerSize, near, false, dockerAtATime, false, nil},
	{"the same, 100 ms away", "≤ 0.55", 12, layerSize, far, true, dockerAtATime, false, nil},
	{"the same, HUBCAP_PREFETCH=off", "≤ 0.8", 12, layerSize, far, true, dockerAtATime, false, noPrefetch},
	{"cold image, 40 layers of 200 KiB, 20 ms away", "≤ 0.3", 40, smallSize, near, false, dockerAtATime, false, nil},
	{"the same, first contact", "≤ 0.4", 40, smallSize, near, false, dockerAtATime, true, nil},
	{"cold image, 40 layers of 200 KiB, 100 ms away", "≤ 0.25", 40, smallSize, far, true, dockerAtATime, false, nil},
	{"the same, first contact", "≤ 0.3", 40, smallSize, far, true, dockerAtATime, true, nil},
	{"the same, registry known, HUBCAP_PREFETCH=off", "≤ 1.0", 40, smallSize, far, true, dockerAtATime, false, noPrefetch},
	{"the same, a client that takes all layers at once, first contact", "≤ 1.1", 40, smallSize, far, true, 40, true, nil},
}

var noPrefetch = []string{"HUBCAP_PREFETCH=off"}

// coldImages are images that nobody holds, from registries that are near and far.
func coldImages(b *bench) ([]row, error) {
	var rows []row
	for _, one := range coldImageRows {
		r := collected(row{what: one.what, unit: "s", to: directName, must: one.must})[0]
		b.upstream(one.latency, 20e6, 0)
		b.hub.Set(func(o *fakehub.Options) { o.Distant = one.distant })
		b.settings = one.settings
		err := b.each(func(c *contender) error { return b.coldImage(c, &one, r) }, cold...)
		b.hub.Set(func(o *fakehub.Options) { o.Distant = false })
		b.settings = nil
		if err != nil {
			return nil, err
		}
		rows = append(rows, r)
	}
	return rows, nil
}

func (b *bench) coldImage(c *contender, one *coldImage, r row) error {
	for range b.reps {
		if one.first {
			if err := c.startAnew(); err != nil {
				return err
			}
		} else if err := b.pullOne(c); err != nil {
			return err
		}
		tag, _ := b.content(repository, sizes(one.layers, one.size)...)
		began := time.Now()
		if err := pullImage(c, tag, one.atATime); err != nil {
			return err
		}
		r.add(c, time.Since(began).Seconds())
	}
	return nil
}

// sizes returns n times size.
func sizes(n int, size int64) []int64 { return slices.Repeat([]int64{size}, n) }

// startAnew restarts a program, so that it has no connections and no tokens.
func (c *contender) startAnew() error {
	if c.process == nil {
		return nil
	}
	c.kill()
	return c.restart()
}

// pullImage pulls an image, and so many layers of it at a time.
func pullImage(c *contender, tag string, atATime int) error {
	p := newPuller(c.url)
	defer p.close()
	m, err := p.manifest(repository, tag)
	if err != nil {
		return err
	}
	work := make(chan digest.Digest, len(m.Layers))
	for _, layer := range m.Layers {
		work <- layer.Digest
	}
	close(work)
	return together(atATime, func(int) error {
		for d := range work {
			if _, err := p.blob(repository, d); err != nil {
				return err
			}
		}
		return nil
	})
}
