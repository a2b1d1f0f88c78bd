package index

import (
	"iter"

	"github.com/dgraph-io/badger/v4"
)

// pageSize is how many records an iterator reads in one transaction. It holds
// none while its caller works on them, so that a slow caller delays neither
// Close nor Badger's compaction.
const pageSize = 256

// Tags iterates over the records of tags and lists in a repository; an empty
// repository stands for all of the registry, an empty registry for all. An
// error ends it. Records that are written meanwhile may be left out.
func (x *Index) Tags(registry, repository string) iter.Seq2[TagRecord, error] {
	return records(x, tagFamily, namesIn(registry, repository), parseTagRecord)
}

// Links iterates over the links of restricted content, by digest; see Tags.
func (x *Index) Links() iter.Seq2[LinkRecord, error] {
	return records(x, linkFamily, "", parseLink)
}

// MediaTypes iterates over the media types of manifests, by digest; see Tags.
func (x *Index) MediaTypes() iter.Seq2[MediaTypeRecord, error] {
	return records(x, mediaFamily, "", parseMediaType)
}

// records iterates over the records of a family whose keys begin with prefix.
// Those that parse does not accept are left out.
func records[R any](x *Index, family, prefix string, parse func(key string, value []byte) (R, bool)) iter.Seq2[R, error] {
	return func(yield func(R, error) bool) {
		for from, more := family+prefix, true; more; {
			var page []R
			err := x.view(func(txn *badger.Txn) (err error) {
				from, more, err = scanFrom(txn, family, prefix, from, pageSize, func(key string, value []byte) error {
					if record, ok := parse(key, value); ok {
						page = append(page, record)
					}
					return nil
				})
				return err
			})
			for _, record := range page {
				if !yield(record, nil) {
					return
				}
			}
			if err != nil {
				var none R
				yield(none, err)
				return
			}
		}
	}
}
