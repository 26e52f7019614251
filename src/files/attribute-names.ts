/** The attributes that a user may give up where they cannot be kept (attributes.ts). The mode is always kept. */
export const OPTIONAL_ATTRIBUTES = ["owner", "times", "xattr"] as const;
export type OptionalAttribute = (typeof OPTIONAL_ATTRIBUTES)[number];
