package words

import (
	"fmt"
	"strings"

	"hubcap/proxy/admin/api"
	"hubcap/proxy/units"
)

// maxNames is how many names are told at most.
const maxNames = 20

// CostOf returns what fetching takes, as an estimate has it.
func CostOf(e *api.Estimate) api.Cost {
	return api.Cost{Objects: e.Objects, Bytes: e.Bytes, Pulls: e.Pulls, Unknown: e.Unknown}
}

// Fetch tells what an order fetches.
func Fetch(c api.Cost) string {
	if c.Objects == 0 && !c.Unknown {
		return "All of it is held: nothing is fetched"
	}
	least := atLeast(c.Unknown)
	return fmt.Sprintf("%s, %s%s, %s fetched; that takes %s%s",
		units.Count(c.Objects, "object"), least, units.Bytes(c.Bytes), verb(c.Objects, "is", "are"), least, units.Count(c.Pulls, "pull"))
}

// verb returns the form that goes with a number.
func verb(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

func atLeast(unknown bool) string {
	if unknown {
		return "at least "
	}
	return ""
}

// Pin tells what a pin takes.
func Pin(c api.PinCost) []string {
	least := atLeast(c.Unknown)
	return []string{
		fmt.Sprintf("%s has %s%s in %s", c.Ref, least, units.Bytes(c.Bytes), units.Count(c.Objects, "object")),
		least + units.Bytes(c.MissingBytes) + " of it is fetched",
		fmt.Sprintf("with it, %s is pinned of what can be", units.BytesOf(c.Pinned+c.Added, c.Limit)),
	}
}

// Unpin tells what the end of a pin means; a has that pin alone.
func Unpin(a api.Pins) (parts []string) {
	for _, one := range a.Pins {
		parts = append(parts, fmt.Sprintf("%s with %s is pinned", one.Ref, units.Bytes(one.Bytes)), "then what no other pin keeps may be evicted")
	}
	return parts
}

// Tag tells what an order about a tag does.
func Tag(c api.TagChange) []string {
	text := fmt.Sprintf("%s is %s", c.Tag.Ref, units.Digest(c.Tag.Digest))
	if c.Digest != "" && c.Digest != c.Tag.Digest {
		text += " and becomes " + units.Digest(c.Digest)
	}
	if c.Cost != nil {
		text += ". " + Fetch(*c.Cost)
	}
	return []string{text}
}

// Purge tells what goes, or has gone, and what stays.
func Purge(r api.Purged) []string {
	did := "are gone"
	if r.DryRun {
		did = "would go"
	}
	text := fmt.Sprintf("%s, %s and %s %s", units.Count(len(r.Tags), "tag"), units.Count(r.Objects, "object"), units.Bytes(r.Bytes), did)
	if n := len(r.Tags); n > 0 {
		text += ": " + strings.Join(r.Tags[:min(n, maxNames)], ", ")
		if n > maxNames {
			text += ", ..."
		}
	}
	parts := []string{text}
	if r.Shared > 0 {
		stays := verb(r.Shared, " stays, as something else needs it", " stay, as something else needs them")
		parts = append(parts, units.Count(r.Shared, "object")+stays)
	}
	for _, one := range r.Kept {
		parts = append(parts, one.Name+" stays: "+one.Why)
	}
	return parts
}

// Evict tells what is evicted to make room; verb says when, such as goes, and would
// what it does to images.
func Evict(e api.Eviction, verb, would string) []string {
	parts := []string{fmt.Sprintf("%s in %s %s", units.Bytes(e.Bytes), units.Count(e.Count, "object"), verb)}
	if e.Pinned > 0 {
		parts = append(parts, units.Bytes(e.Pinned)+" pinned are passed over")
	}
	return append(parts, fmt.Sprintf("%s %s no longer survive an outage", units.Count(e.Broken, "image"), would))
}

// Repair tells what a repair does; who is what begins the sentence.
func Repair(who string, r api.Repair) []string {
	if r.Images == 0 {
		return []string{who + " finds that there is nothing that it could fetch"}
	}
	text := fmt.Sprintf("%s fetches %s%s for %s", who, atLeast(r.Unknown), units.Bytes(r.Bytes), units.Count(r.Images, "image"))
	for _, one := range r.Pulls {
		text += fmt.Sprintf(", takes %s of %s", units.Count(one.Pulls, "pull"), one.Registry)
	}
	parts := []string{text}
	if n := len(r.Left); n > 0 {
		parts = append(parts, units.Count(n, "image")+" will not be ready then")
	}
	return parts
}
