package proxy

// FixedTexts returns the messages of the errors that clients are told for bad
// input and for content that there is not.
func FixedTexts() (texts []string) {
	for _, one := range []*apiError{
		errNoRoute, errAbsolute, errMethod, errNameInvalid, errDigestInvalid, errColonEncoded, errPageInvalid, errUnknownRegistry, errTwoRegistries,
		errRange, errManifestUnknown, errBlobUnknown, errNameUnknown, errUnreachable,
	} {
		texts = append(texts, one.message)
	}
	return texts
}

// Running returns the number of requests that are being answered.
func (h *Handler) Running() int64 { return h.running.Load() }
